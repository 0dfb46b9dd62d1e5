"use strict";

// The page of the API: Swagger UI over the portal's own description. Calls go with the reader's session.
const place = document.getElementById("api");
const csrf = document.querySelector('meta[name="csrf-token"]').content;

// Its dark colours hang on a class of the page.
const dark = matchMedia("(prefers-color-scheme: dark)");
const showTheme = () => {
  const { theme } = document.documentElement.dataset;
  document.documentElement.classList.toggle("dark-mode", theme ? theme === "dark" : dark.matches);
};
dark.addEventListener("change", showTheme);
new MutationObserver(showTheme).observe(document.documentElement, { attributeFilter: ["data-theme"] });
showTheme();

window.SwaggerUIBundle({
  url: place.dataset.schema,
  domNode: place,
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
  requestInterceptor: (request) => {
    if (request.method && request.method !== "GET") request.headers["X-CSRFToken"] = csrf;
    return request;
  },
});
