// The page of votes: its choice of a model.
import { pickers } from "./lib/picker.js";

pickers();
document.documentElement.dataset.ready = "true";
