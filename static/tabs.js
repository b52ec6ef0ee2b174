// Tabs whose panels are all in the page: links without scripts, the ARIA pattern with them. The address says which one is open.

const nameOf = (tab) => tab.dataset.tab;
const panelOf = (tab) => document.getElementById(`panel-${nameOf(tab)}`);

// Upgrades a list of links; returns open(name). `onOpen(name)` hears of every tab that is opened.
export function keepTabs(list, onOpen) {
  const tabs = [...list.querySelectorAll("[data-tab]")];
  const find = (name) => tabs.find((tab) => nameOf(tab) === name);
  const current = () => tabs.find((tab) => tab.ariaSelected === "true");

  list.setAttribute("role", "tablist");
  for (const tab of tabs) {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panelOf(tab).id);
    panelOf(tab).setAttribute("role", "tabpanel");
    panelOf(tab).setAttribute("aria-labelledby", tab.id);
  }

  function show(tab) {
    for (const one of tabs) {
      one.removeAttribute("aria-current");
      one.ariaSelected = String(one === tab);
      one.tabIndex = one === tab ? 0 : -1;
      panelOf(one).hidden = one !== tab;
    }
    onOpen(nameOf(tab));
  }

  function open(name) {
    const tab = find(name);
    if (!tab || tab === current()) return;
    show(tab);
    const address = new URL(location);
    address.searchParams.set("tab", name);
    address.hash = "";
    history.pushState(null, "", address);
  }

  // What an address names by its hash lies in a panel that may be closed.
  function follow() {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const inside = target && tabs.find((tab) => panelOf(tab).contains(target));
    show(inside || find(new URL(location).searchParams.get("tab")) || tabs[0]);
    if (inside) target.scrollIntoView();
  }

  const isPlain = (event) => event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-tab], [data-tab-link]");
    if (!link || !isPlain(event)) return;
    event.preventDefault();
    open(link.dataset.tab ?? link.dataset.tabLink);
    if (link.dataset.tabLink) current().focus();
  });

  const moves = { ArrowRight: 1, ArrowLeft: -1 };
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1
      : event.key in moves ? (at + moves[event.key] + tabs.length) % tabs.length : -1;
    if (at < 0 || to < 0) return;
    event.preventDefault();
    tabs[to].focus();
    open(nameOf(tabs[to]));
  });
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);

  const chosen = tabs.find((tab) => tab.ariaCurrent === "page") ?? tabs[0];
  if (location.hash.length > 1) follow(); else show(chosen);
  return open;
}
