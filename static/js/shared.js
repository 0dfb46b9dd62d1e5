// A shared conversation: the answers' Markdown is drawn.
import { drawMarkdown } from "./lib/markdown.js";

drawMarkdown();
document.documentElement.dataset.ready = "true";
