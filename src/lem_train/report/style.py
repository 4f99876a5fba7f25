"""How a report looks: colours for light and dark, and the style sheet."""

from __future__ import annotations

# By name: light, dark. Text keeps a contrast of 4.5 to what it stands on and lines one of 3, after
# WCAG 2.2 (1.4.3 and 1.4.11); tests/report/test_style.py computes them.
COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#ffffff", "#12161b"),
    "panel": ("#f3f5f8", "#1c232b"),
    "text": ("#1b1f24", "#e8ebee"),
    "muted": ("#4f5963", "#a9b4be"),
    "grid": ("#d3d9e0", "#39424d"),
    "link": ("#0b5cad", "#7cbaff"),
    "s0": ("#0b5cad", "#6cb0ff"),
    "s1": ("#a34700", "#ffab66"),
    "s2": ("#5b5f00", "#d8dc5a"),
    "better": ("#1466b8", "#4a9eff"),
    "worse": ("#c0392b", "#ff7565"),
    "new": ("#cdeed6", "#1d4a2b"),
}


def style() -> str:
    """The style sheet, with both schemes."""
    light, dark = ("".join(f"--{n}:{c[i]};" for n, c in COLOURS.items()) for i in (0, 1))
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        + " ".join(line.strip() for line in _RULES.splitlines())
    )


_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:16px}
h1{font-size:1.7rem;line-height:1.2;margin:.4em 0;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.2em 0 .4em;padding-top:.5em;border-top:1px solid var(--grid)}
h3{font-size:1rem;margin:1.4em 0 .3em;overflow-wrap:anywhere}
p{max-width:72ch;margin:.5em 0;overflow-wrap:anywhere}
a{color:var(--link)}
nav{display:flex;flex-wrap:wrap;gap:.3em 1em;margin:1em 0}
.none,figcaption,.note,dt,th{color:var(--muted)}
code,pre{font:0.875rem/1.45 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
pre{background:var(--panel);padding:12px;border-radius:6px;white-space:pre-wrap;
  overflow-wrap:anywhere;margin:.5em 0}
code{overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,3fr);gap:.15em 1em;margin:.5em 0}
dt,dd{margin:0;overflow-wrap:anywhere}
.charts{margin:1em 0;display:grid;
  grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:20px}
figure{margin:0;min-width:0}
figcaption{font-size:.9rem;max-width:72ch}
figcaption b{color:var(--text);display:block;font-size:1rem}
.key{display:flex;flex-wrap:wrap;gap:.1em 1em;list-style:none;margin:.2em 0;padding:0;
  font-size:.875rem}
.key li::before{content:"━●";letter-spacing:-.1em;margin-right:.5em;color:var(--s0)}
.key .s1::before{content:"╍■";color:var(--s1)} .key .s2::before{content:"┅◆";color:var(--s2)}
.phases li::before{display:none}
svg{display:block;width:100%;max-width:760px;height:auto}
svg text{font-size:13px;fill:var(--muted)}
svg .name,svg .cell{fill:var(--text)}
svg .plain{fill:transparent} svg .band{fill:var(--panel)}
svg .grid{stroke:var(--grid)} svg .axis{stroke:var(--muted);stroke-width:1.5}
svg polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.s0{stroke:var(--s0);fill:var(--s0)} .s1{stroke:var(--s1);fill:var(--s1)}
.s2{stroke:var(--s2);fill:var(--s2)}
.s1 polyline{stroke-dasharray:7 4} .s2 polyline{stroke-dasharray:2 4}
li.s0,li.s1,li.s2{fill:none;stroke:none}
svg .dot{stroke:none} svg .hit{fill:transparent;stroke:none} svg .span{stroke-width:3}
.s1 .span{stroke-dasharray:7 4}
svg .bar{fill:var(--s0)} svg .better{fill:var(--better)} svg .worse{fill:var(--worse)}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;margin:.4em 0}
th,td{text-align:right;padding:.25em .7em;border-bottom:1px solid var(--grid);white-space:nowrap;
  vertical-align:top}
th{font-weight:600} th:first-child,td:first-child{text-align:left;padding-left:0}
td.words,th.words{text-align:left;white-space:normal;min-width:14em}
details{margin:.4em 0} summary{cursor:pointer;color:var(--link)}
.probe{white-space:pre-wrap}
.row{display:flex;gap:12px;overflow-x:auto;padding-bottom:8px}
.row article{flex:0 0 min(17rem,84%);background:var(--panel);border-radius:6px;padding:10px 12px}
.row h4{margin:0;font-size:.9rem;overflow-wrap:anywhere}
.said{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;font-size:.9rem}
ins{background:var(--new);text-decoration:underline;text-decoration-thickness:1px;
  text-underline-offset:2px}
del{color:var(--muted)}
@media(max-width:600px){
  svg text{font-size:21px} svg.dense .cell{display:none}
  h1{font-size:1.4rem}
}
@media print{details{display:block}}
"""
