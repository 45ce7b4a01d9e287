"""The page's style sheet and its few lines of script.

Colours come in two sets, for light and for dark; every text has a contrast of 4.5
to what lies behind it.  Nothing is loaded from anywhere.
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff", "raised": "#f4f6f8", "rule": "#dfe3e8", "ink": "#1b1f24",
    "muted": "#57606a", "most": "#0067a3", "late": "#b84a00", "gone": "#00705a",
    "warning": "#a01818",
}  # fmt: skip
DARK = {
    "paper": "#14171a", "raised": "#1e2327", "rule": "#343b42", "ink": "#e8eaed",
    "muted": "#a7afb8", "most": "#5fb4ea", "late": "#ff9d5c", "gone": "#4fc9a4",
    "warning": "#ff8f8f",
}  # fmt: skip
HEAT_LEAST, HEAT_STEP = 0.05, 0.045  # opacity of the first level, and of each more
LEVELS = 10


def colours(of: dict[str, str]) -> str:
    """Return a set of colours as CSS variables."""
    return "".join(f"--{name}:{value};" for name, value in of.items())


def levels() -> str:
    """Return how strongly each level of a heat map and of a strip is drawn."""
    return "".join(
        f".l{n}{{fill-opacity:{HEAT_LEAST + HEAT_STEP * n:.3f}}}"
        f".s{n}{{stroke-opacity:{n / LEVELS}}}"
        for n in range(LEVELS + 1)
    )


RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:46rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem}
h3{font-size:1.02rem;line-height:1.35;margin:0 0 .25rem}
p{margin:.5rem 0}
.muted,figcaption{color:var(--muted);font-size:.9rem}
.advice{background:var(--raised);border-left:4px solid var(--most);
 padding:.7rem 1rem;margin:1.2rem 0;list-style:none}
.advice li+li{margin-top:.5rem}
figure{margin:1.6rem 0 2.2rem;break-inside:avoid}
svg{display:block;width:100%;max-width:41rem;height:auto;overflow:visible;margin-top:.6rem}
svg text{fill:var(--ink);font-size:13px;font-family:inherit}
svg .tick{fill:var(--muted)}
svg .axis{fill:var(--muted)}
.most{--c:var(--most)}.late{--c:var(--late)}.gone{--c:var(--gone)}
.theory{--c:var(--muted)}
svg .label[class*=" "]{fill:var(--c,var(--ink))}
.line{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round}
.line.theory,.line.thin{stroke-width:1.5;stroke-dasharray:6 4}
.dot{fill:var(--c);stroke:var(--c);stroke-width:1.6}
.dot.hollow{fill:var(--paper)}
.band{fill:var(--c);fill-opacity:.14}
.rule{stroke:var(--rule);stroke-width:1}
.base{stroke:var(--muted);stroke-width:1}
.knee{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:2 3}
.heat{fill:var(--most)}
.heat.bad{fill:none;stroke:var(--warning);stroke-dasharray:3 3}
.empty{fill:var(--raised)}
.slice{fill:none;stroke:var(--most);stroke-width:14;shape-rendering:crispEdges}
.wide{overflow-x:auto;border:1px solid var(--rule);border-radius:4px}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--rule);
 white-space:nowrap;vertical-align:top}
tr:last-child td{border-bottom:0}
th{background:var(--raised);vertical-align:bottom}
.text{text-align:left}
.wrap td{white-space:normal;min-width:8rem}
th button{all:unset;cursor:pointer;font-weight:inherit}
th button:focus-visible{outline:2px solid var(--most);outline-offset:3px}
th button::after{content:" \\2195";color:var(--muted)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
.invalid td{color:var(--warning)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;margin:.5rem 0}
dt{font-weight:600}
dd{margin:0}
pre{background:var(--raised);padding:.7rem 1rem;overflow-x:auto;font-size:.85rem;
 white-space:pre-wrap;margin:.5rem 0}
@media (max-width:34rem){
 dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.6rem}
 h1{font-size:1.4rem}svg text{font-size:16px}
}
@media print{
 body{font-size:10.5pt}main{max-width:none;padding:0}
 .wide{overflow:visible;border:0}table{font-size:6.5pt}th,td{padding:.15rem .25rem}
 th button::after{content:none}
}
"""

CSS = (
    f":root{{color-scheme:light dark;{colours(LIGHT)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{colours(DARK)}}}}}"
    f"{RULES}{levels()}"
)

SCRIPT = """
for (const table of document.querySelectorAll("table.sorted")) {
  const body = table.tBodies[0];
  const value = (row, at) => {
    const cell = row.cells[at], given = cell.dataset.value;
    return given === undefined ? cell.textContent : given === "" ? -Infinity : +given;
  };
  [...table.tHead.rows[0].cells].forEach((title, at) => {
    const button = document.createElement("button");
    button.append(...title.childNodes);
    title.append(button);
    button.onclick = () => {
      const up = title.ariaSort !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
      body.append(...[...body.rows].sort((a, b) => order(value(a, at), value(b, at))));
    };
  });
}
"""
