"""The page's style: one column on a phone, two on a desk; light, dark and print; nothing is loaded from anywhere."""

from __future__ import annotations

__all__ = ["CSS"]

CSS = """
:root { color-scheme: light dark; --bg: #ffffff; --ink: #16191d; --muted: #59626d; --line: #d9dee4; --soft: #f4f6f8;
  --blue: #0072b2; --good: #005a8f; --good-bg: #e4f1fa; --bad: #a34700; --bad-bg: #fdeee2; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --ink: #e7eaee; --muted: #a2acb8; --line: #353c45;
  --soft: #1c2127; --blue: #3f9fdc; --good: #7cc3ee; --good-bg: #12293a; --bad: #ffab70; --bad-bg: #3a2413; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--muted); margin: 0 0 14px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 52px 0 10px; padding-top: 18px;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 24px 0 6px; }
p { margin: 0 0 12px; max-width: 76ch; }
.verdict { border-left: 6px solid var(--good); background: var(--good-bg); border-radius: 6px; padding: 16px 20px; }
.verdict.missed { border-color: var(--bad); background: var(--bad-bg); }
.verdict strong { display: block; font-size: 1.6rem; line-height: 1.2; margin-bottom: 6px; }
.verdict p:last-child, .verdict ul { margin-bottom: 0; }
.verdict ul { margin-top: 4px; padding-left: 1.2em; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 16px 0 20px; padding: 0; }
.tiles > div { background: var(--soft); border-radius: 6px; padding: 12px 14px; }
.tiles dt { color: var(--muted); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.45rem; font-weight: 600; line-height: 1.3; }
.tiles dd + dd { font-size: .85rem; font-weight: 400; color: var(--muted); }
.met { color: var(--good); font-weight: 600; white-space: nowrap; }
.missed-word { color: var(--bad); font-weight: 600; white-space: nowrap; }
.muted { color: var(--muted); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr));
  gap: 18px 22px; margin: 14px 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 18px 32px;
  margin: 14px 0; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { font-size: .9rem; line-height: 1.35; margin-bottom: 4px; overflow-wrap: anywhere; }
figcaption span { color: var(--muted); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.cards svg { max-width: 360px; }
.pair svg { max-width: 490px; }
.wide svg { max-width: 600px; }
svg text { font-family: inherit; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 8px 0 4px; padding: 0;
  font-size: .9rem; }
.legend b { font-weight: 400; margin-right: 5px; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; line-height: 1.4; }
caption { text-align: left; color: var(--muted); padding-bottom: 6px; }
th, td { text-align: left; vertical-align: top; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; overflow-wrap: break-word; min-width: 7em; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.word { min-width: 6em; } .long { min-width: 18em; }
details { margin: 12px 0; }
summary { cursor: pointer; color: var(--good); }
code, pre { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--soft); border-radius: 6px; padding: 12px 14px; overflow-x: auto; margin: 8px 0 14px; }
footer { margin-top: 48px; padding-top: 14px; border-top: 1px solid var(--line); color: var(--muted);
  font-size: .85rem; }
@media (max-width: 560px) { main { padding: 18px 14px 40px; } h2 { margin-top: 38px;
  } .verdict strong { font-size: 1.3rem; }
  th, td { padding-right: 10px; } }
@media print {
  :root { color-scheme: light; --bg: #fff; --ink: #000; --muted: #444; --line: #bbb; --soft: #f4f4f4; --blue: #0072b2;
    --good: #005a8f; --good-bg: #fff; --bad: #a34700; --bad-bg: #fff; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  h2, h3, figcaption { break-after: avoid; } tr { break-inside: avoid; } thead { display: table-header-group; }
  .verdict { border: 1px solid; border-left-width: 6px; } .scroll { overflow: visible;
  } pre { white-space: pre-wrap; }
  details::details-content { content-visibility: visible; block-size: auto; } summary { list-style: none; }
}
"""
