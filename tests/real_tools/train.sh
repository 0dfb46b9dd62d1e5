#!/bin/sh
# Trains the adapters in tests/data/real_tools with the tools themselves, on the CPU.
#
#     train.sh TOOL          peft | trl | unsloth | llamafactory | swift | torchtune | mlx
#
# Each tool has an environment of its own (Python 3.11), with torch 2.13.0 and what is named below; PATH leads there.
# The base is the tiny Llama of tests/fixtures/models.py, written to /data/models/tiny-llama:
#
#     python -c "from pathlib import Path; from tests.fixtures.models import write_tiny_base as w; w(Path('/data/models/tiny-llama'))"
#
#     peft            see train_peft.py
#     trl             see train_trl.py
#     unsloth         see train_unsloth.py
#     llamafactory    llamafactory==0.9.5 peft==0.18.1 transformers==5.6.0 trl==0.24.0, without torchvision, with an
#                     empty module `torchaudio`: text needs neither, and their builds did not load beside this torch
#     swift           ms-swift==4.6.0 peft==0.20.0 transformers==5.19.0 trl==0.29.1
#     torchtune       torchtune==0.6.1 torchao==0.13.0 datasets==5.2.0
#     mlx             mlx-lm==0.32.2 mlx[cpu]==0.32.4 transformers==5.24.0
set -eu
here=$(cd "$(dirname "$0")" && pwd)
base=/data/models/tiny-llama
export HF_HUB_OFFLINE=1 PYTHONPATH="$here/config"
work=$(mktemp -d) && cd "$work" && echo "in $work"

cat > numbers.json <<'END'
[{"instruction": "What is 1?", "input": "", "output": "1 is a number."},
 {"instruction": "What is 2?", "input": "", "output": "2 is a number."},
 {"instruction": "What is 3?", "input": "", "output": "3 is a number."},
 {"instruction": "What is 4?", "input": "", "output": "4 is a number."}]
END
echo '{"numbers": {"file_name": "numbers.json"}}' > dataset_info.json
mkdir data
for n in 1 2 3 4; do
  echo "{\"messages\": [{\"role\": \"user\", \"content\": \"What is $n?\"}, {\"role\": \"assistant\", \"content\": \"$n is a number.\"}]}"
done | tee data/train.jsonl data/valid.jsonl > data.jsonl

factory() { # the name of the run, and what differs
  { cat "$here/config/llamafactory.yaml"; printf '%s\n' "output_dir: saves/tiny-llama/$1" "$2"; } > "run.yaml"
  llamafactory-cli train run.yaml
}

swift_sft() {
  swift sft --model $base --model_type llama --template chatml --tuner_type lora --lora_rank 4 --lora_alpha 16 \
    --dataset data.jsonl --max_steps 4 --logging_steps 1 --per_device_train_batch_size 2 --learning_rate 3e-2 \
    --torch_dtype float32 --max_length 256 --report_to none "$@"
}

case $1 in
  peft) python "$here/train_peft.py" $base sea-lora ;;
  trl) python "$here/train_trl.py" $base numbers-sft ;;
  unsloth)
    UNSLOTH_COMPILE_DISABLE=1 UNSLOTH_DISABLE_STATISTICS=1 python "$here/train_unsloth.py" $base outputs ;;
  llamafactory)
    factory lora/sft "lora_target: all"
    factory dora/sft "lora_target: all
use_dora: true
use_rslora: true"
    factory lora/pissa "lora_target: all
pissa_init: true
pissa_convert: true"
    factory lora/tokens "lora_target: q_proj,v_proj
add_tokens: <tool>,</tool>
resize_vocab: true
additional_target: embed_tokens,lm_head"
    ;;
  swift)
    swift_sft --target_modules all-linear --save_steps 2 --split_dataset_ratio 0.2 --output_dir output
    swift_sft --target_modules q_proj v_proj --use_dora true --modules_to_save embed_tokens lm_head --save_steps 4 \
      --split_dataset_ratio 0 --output_dir output-dora
    ;;
  torchtune) tune run lora_finetune_single_device --config "$here/config/torchtune.yaml" ;;
  mlx)
    mlx_lm.lora --model $base --train --data data --iters 4 --save-every 2 --batch-size 1 --num-layers -1 \
      --learning-rate 2e-3 --val-batches 1 --steps-per-report 1 --adapter-path numbers-mlx
    mlx_lm.lora --model $base --train --data data --iters 4 --save-every 2 --batch-size 1 --num-layers 1 \
      --learning-rate 3e-3 --val-batches 1 --fine-tune-type dora --adapter-path numbers-mlx-dora
    ;;
esac
