# vLLM's own router: docker build -f deploy/router.Dockerfile -t vllm-router deploy
FROM python:3.13-slim-bookworm
RUN pip install --no-cache-dir vllm-router==0.1.17 && useradd --uid 10001 --create-home router
USER 10001
EXPOSE 8080
ENTRYPOINT ["vllm-router"]
