// Formulas by KaTeX as MathML (no fonts, no inline styles). Loaded when the first formula appears.
import { el } from "./dom.js";

let loading = null;

function katex() {
  loading ??= new Promise((resolve, reject) => {
    const script = el("script", { src: document.querySelector("[data-katex]").dataset.katex });
    script.addEventListener("load", () => resolve(globalThis.katex));
    script.addEventListener("error", reject);
    document.head.append(script);
  });
  return loading;
}

/** An element that shows its source until the formula is drawn, and for good where it is none. */
export function formula(source, display) {
  const box = el("span", { className: display ? "math-display" : "math" }, source);
  katex().then(
    (library) => {
      try {
        const options = { displayMode: display, output: "mathml", throwOnError: true, trust: false, maxExpand: 200, maxSize: 20 };
        library.render(source, box, options);
      } catch {
        box.replaceChildren(source);
      }
    },
    () => {},
  );
  return box;
}
