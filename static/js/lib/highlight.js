// Colours for code of any common language: comments, strings, numbers, keywords. One pass, no grammar per language.

const KEYWORDS = new Set(
  ("abstract and as async await bool boolean break case catch char class const continue def default defer del do double " +
    "elif else enum except export extends extern false False final finally float fn for from func function global go if " +
    "impl implements import in int interface is lambda let long match mod mut namespace new nil None nonlocal not null or " +
    "package pass private protected pub public raise return self short static str string struct super switch then this " +
    "throw trait true True try type typeof undefined union unsafe use using var virtual void where while with yield " +
    "select SELECT FROM WHERE INSERT INTO VALUES UPDATE SET DELETE JOIN ON GROUP BY ORDER LIMIT CREATE TABLE echo fi done esac").split(" "),
);
const HASH = new Set(["python", "py", "sh", "bash", "shell", "zsh", "yaml", "yml", "toml", "ruby", "rb", "r", "perl", "make", "makefile", "dockerfile", "ini"]);
const DASH = new Set(["sql", "lua", "haskell", "hs"]);

function pattern(language) {
  const comment = HASH.has(language) ? "#[^\\n]*" : DASH.has(language) ? "--[^\\n]*" : "//[^\\n]*|/\\*[\\s\\S]*?(?:\\*/|$)|<!--[\\s\\S]*?(?:-->|$)";
  const string = "\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'''[\\s\\S]*?(?:'''|$)|\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?|`(?:\\\\.|[^`\\\\])*`?";
  return new RegExp(`(${comment})|(${string})|(\\b\\d[\\w.]*)|([A-Za-z_$][\\w$]*)`, "g");
}

/** Nodes for `code`; plain where the language says so or the text is very long. */
export function highlight(code, language) {
  if (["", "text", "txt", "plain", "markdown", "md"].includes(language) || code.length > 100_000) return [code];
  const nodes = [];
  let last = 0;
  for (const match of code.matchAll(pattern(language))) {
    const [text, comment, string, digits] = match;
    const kind = comment ? "comment" : string ? "string" : digits ? "number" : KEYWORDS.has(text) ? "keyword" : "";
    if (!kind) continue;
    if (match.index > last) nodes.push(code.slice(last, match.index));
    const span = document.createElement("span");
    span.className = `hl-${kind}`;
    span.textContent = text;
    nodes.push(span);
    last = match.index + text.length;
  }
  nodes.push(code.slice(last));
  return nodes;
}
