// Parts of a page that are painted anew while somebody is at work in them.

const CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]";
const sign = (control) => [control.tagName, control.id, control.name, control.getAttribute("href"), control.textContent].join();

// Call what it returns once the part is painted anew: what was open in it is open, and who stood on a control stands on its like.
export function hold(part) {
  const open = [...part.querySelectorAll("details")].map((details) => details.open);
  const held = part.contains(document.activeElement) && document.activeElement !== document.body ? sign(document.activeElement) : null;
  return () => {
    const fresh = part.isConnected ? part : document.getElementById(part.id);
    if (!fresh) return;
    const folds = [...fresh.querySelectorAll("details")];
    if (folds.length === open.length) folds.forEach((details, at) => { details.open ||= open[at]; });
    if (held && document.activeElement === document.body) {
      [...fresh.querySelectorAll(CONTROLS)].find((control) => sign(control) === held)?.focus({ preventScroll: true });
    }
  };
}
