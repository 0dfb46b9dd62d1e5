// Markdown: tokens of CommonMark with tables, and emphasis beside Chinese, Japanese and Korean punctuation.
export { default as cjkFriendly } from "markdown-it-cjk-friendly";
export { default as MarkdownIt } from "markdown-it";
