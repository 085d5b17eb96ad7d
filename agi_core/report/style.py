"""The report's style sheet: system fonts, dark on light, prints on A4."""

CSS = """
:root { --ink: #1b2733; --soft: #526170; --line: #d9e0e7; --tint: #f4f7fa; --accent: #123a5c; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
main, header > div { max-width: 1060px; margin: 0 auto; padding: 0 24px; }
header { border-top: 6px solid var(--accent); background: var(--tint); border-bottom: 1px solid var(--line);
  padding: 26px 0 24px; }
h1 { font-size: 29px; line-height: 1.2; margin: 2px 0 10px; color: var(--accent); letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 40px 0 8px; color: var(--accent); }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 8px 0; max-width: 86ch; }
small, .soft, figcaption, caption { color: var(--soft); }
.kicker { margin: 0; font-size: 13px; color: var(--soft); }
.lead { font-size: 17px; }
.notice { padding: 9px 14px; border-left: 5px solid; margin: 12px 0; max-width: none; }
.synthetic { background: #fff3d1; border-color: #c98a00; color: #4f3700; }
.synthetic strong { letter-spacing: 0.03em; }
.unknown { background: #fff; border-color: var(--soft); }
.unfinished { background: #fdeaea; border-color: #b3261e; color: #5c130e; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0 4px; padding: 0; }
.tiles > div { flex: 1 1 150px; background: #fff; border: 1px solid var(--line); border-radius: 6px;
  padding: 10px 14px; }
.tiles dt { font-size: 13px; color: var(--soft); }
.tiles dd { margin: 0; font-size: 25px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: 13px; font-weight: 400; }
table { border-collapse: collapse; width: 100%; margin: 10px 0 6px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 4px; font-size: 14px; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
thead th { font-size: 13px; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line);
  vertical-align: bottom; }
tbody th { font-weight: 600; }
tr.total > * { background: var(--tint); font-weight: 650; }
.metrics thead th[colspan] { text-align: center; border-bottom-width: 1px; }
.metrics thead td { border: 0; }
.metrics tr > :nth-child(7), .metrics thead th[colspan]:last-child { border-left: 1px solid var(--line); }
.methods td { white-space: nowrap; }
.methods th small { display: block; font-weight: 400; max-width: 52ch; }
.mark { display: inline-block; margin-left: 6px; padding: 0 7px; border-radius: 9px; font-size: 12px;
  font-weight: 600; white-space: nowrap; }
.worst { background: #fdeaea; color: #8c1d18; }
.unseen { background: #e6eefc; color: #1d4289; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px; }
.plot { width: 100%; height: auto; display: block; margin: 10px 0; }
.panels { display: grid; gap: 8px; }
.panels figure { margin: 0; }
.panel { position: relative; background: #000; border-radius: 3px; overflow: hidden; }
.panel img { display: block; width: 100%; }
.panel span { position: absolute; color: #fff; font-size: 12px; line-height: 1; text-shadow: 0 0 3px #000; }
.panel .right { left: 5px; top: calc(50% - 6px); }
.panel .anterior { top: 5px; left: calc(50% - 4px); }
figcaption { font-size: 13px; margin-top: 4px; line-height: 1.35; }
figcaption b { color: var(--ink); }
.scale { font-size: 13px; }
.scale img { width: 180px; height: 12px; border-radius: 2px; vertical-align: -1px; margin: 0 4px; }
.facts th { width: 190px; color: var(--soft); font-weight: 600; }
code { display: block; width: fit-content; margin-top: 4px;
  font: 13px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--tint);
  padding: 3px 8px; border-radius: 3px;
  overflow-wrap: anywhere; }
dl.terms { display: grid; grid-template-columns: 150px 1fr; gap: 5px 14px; }
dl.terms dt { font-weight: 600; } dl.terms dd { margin: 0; }
footer { margin: 44px 0 30px; padding-top: 12px; border-top: 1px solid var(--line); font-size: 13px;
  color: var(--soft); }
@media print {
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { font-size: 9pt; }
  th, td { padding: 4px 6px; }
  thead th, .tiles dt, .tiles dd small { font-size: 8pt; }
  .tiles > div { flex-basis: 100px; padding: 6px 8px; }
  .tiles dd { font-size: 14pt; }
  .lead { font-size: 11pt; }
  main, header > div { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; } section.example, tr, .plot { break-inside: avoid; }
}
"""
