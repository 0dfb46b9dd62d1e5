// Copies what pages need from npm packages into static/vendor: the icons named in icons.txt as one SVG sprite, two
// variable fonts (Latin), KaTeX for formulas, one module for each file of bundles/, and the licences of all.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, "node_modules");
const target = join(root, "static", "vendor");

function icons() {
  const source = join(modules, "@fortawesome", "fontawesome-free");
  const names = readFileSync(join(root, "frontend", "icons.txt"), "utf8").split("\n").filter(Boolean);
  const symbols = names.map((name) => {
    const svg = readFileSync(join(source, "svgs", "solid", `${name}.svg`), "utf8");
    const box = svg.match(/viewBox="([^"]+)"/)[1];
    const paths = [...svg.matchAll(/<path[^>]*?\sd="([^"]+)"/g)].map((match) => `<path d="${match[1]}"/>`);
    return `<symbol id="${name}" viewBox="${box}">${paths.join("")}</symbol>`;
  });
  const folder = join(target, "fontawesome");
  mkdirSync(folder, { recursive: true });
  const notice = "Font Awesome Free by @fontawesome - https://fontawesome.com/license/free (icons: CC BY 4.0)";
  writeFileSync(
    join(folder, "icons.svg"),
    `<!-- ${notice} -->\n<svg xmlns="http://www.w3.org/2000/svg">\n${symbols.join("\n")}\n</svg>\n`,
  );
  copyFileSync(join(source, "LICENSE.txt"), join(folder, "LICENSE.txt"));
}

function fonts() {
  const folder = join(target, "fonts");
  mkdirSync(folder, { recursive: true });
  for (const name of ["inter", "jetbrains-mono"]) {
    const source = join(modules, "@fontsource-variable", name);
    copyFileSync(join(source, "files", `${name}-latin-wght-normal.woff2`), join(folder, `${name}.woff2`));
    copyFileSync(join(source, "LICENSE"), join(folder, `${name}-LICENSE.txt`));
  }
}

function katex() {
  const folder = join(target, "katex");
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(modules, "katex", "dist", "katex.min.js"), join(folder, "katex.min.js"));
  copyFileSync(join(modules, "katex", "LICENSE"), join(folder, "LICENSE.txt"));
}

/** Each file of bundles/ with all that it imports as one minified module, beside the licences of what went into it. */
async function bundles() {
  const source = join(root, "frontend", "bundles");
  for (const file of readdirSync(source).sort()) {
    const folder = join(target, basename(file, ".js"));
    const { metafile } = await build({
      absWorkingDir: root,
      entryPoints: [join(source, file)],
      outfile: join(folder, file),
      bundle: true,
      minify: true,
      format: "esm",
      target: "es2022",
      charset: "utf8",
      legalComments: "none",
      metafile: true,
    });
    const inputs = Object.values(metafile.outputs)[0].inputs;
    const used = Object.keys(inputs).filter((name) => inputs[name].bytesInOutput);
    const packages = new Set(used.map((name) => name.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean));
    writeFileSync(join(folder, "LICENSES.txt"), [...packages].sort().map(licence).join("\n"));
  }
}

function licence(name) {
  const folder = join(modules, name);
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  return `${name} ${version}\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
}

icons();
fonts();
katex();
await bundles();
