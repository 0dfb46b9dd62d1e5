// A button over the end of a log that leads to its latest entry while that is out of sight.

/** `isAtEnd()` and `toEnd()` are the log's; `place` is what grows in it. */
export function jumpToLatest(button, log, place, isAtEnd, toEnd) {
  const look = () => (button.hidden = isAtEnd());
  log.addEventListener("scroll", look, { passive: true });
  const seen = new ResizeObserver(look);
  for (const one of [log, place]) seen.observe(one);
  button.addEventListener("click", () => {
    toEnd();
    log.focus();
  });
}
