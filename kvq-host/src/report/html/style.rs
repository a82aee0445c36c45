//! How the page looks: light and dark, wide and narrow.

/// The style sheet.
pub(super) const CSS: &str = r"
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#5b6470;--line:#d9dee5;--card:#f6f8fa;
--k0:#7a828c;--k1:#24292f;--k2:#0072b2;--k3:#d55e00;--k4:#009e73;--k5:#a2559b;--k6:#a67c00;--k7:#2f8fb8;
--b8:#1f4e79;--b4:#2e86c1;--b3:#7fb3d5;--b2:#f0b27a}
@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--ink:#e6e9ed;--soft:#9aa4b0;--line:#333b45;--card:#171c22;
--k0:#8b949e;--k1:#e6edf3;--k2:#4fb3ff;--k3:#ff9a57;--k4:#3fd0a0;--k5:#d59bd6;--k6:#e0b84a;--k7:#7fd3f5;
--b8:#2f74b5;--b4:#4fa3dd;--b3:#8fc1e3;--b2:#e59866}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1248px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .25rem}
.summary{font-size:1.1rem;max-width:60rem}
.note,figcaption{color:var(--soft);font-size:.85rem;max-width:60rem;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.84rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .45rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{vertical-align:bottom;font-weight:600;white-space:normal}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--bg)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:1rem;margin-top:1.5rem;align-items:start}
figure{margin:0;padding:.75rem;background:var(--card);border:1px solid var(--line);border-radius:6px;min-width:0}
figure h2{margin:0 0 .25rem;font-size:1rem}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:12px;font-family:system-ui,sans-serif}
svg .strong{fill:var(--ink)}
svg .grid{stroke:var(--line);stroke-width:1}svg .axis{stroke:var(--soft);stroke-width:1}
svg .path{fill:none;stroke:var(--k);stroke-width:2}svg .dot{fill:var(--k);stroke:var(--card);stroke-width:1}
svg .mark{fill:none;stroke:var(--soft);stroke-width:1.3}svg .level{stroke:var(--soft);stroke-dasharray:4 3}
svg .inbar{fill:#fff;font-size:11px}svg .indark{fill:#16202a;font-size:11px}
.key{display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.85rem;margin:.25rem 0;padding:0;list-style:none}
.key i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px;background:var(--k)}
.k0{--k:var(--k0)}.k1{--k:var(--k1)}.k2{--k:var(--k2)}.k3{--k:var(--k3)}.k4{--k:var(--k4)}.k5{--k:var(--k5)}
.k6{--k:var(--k6)}.k7{--k:var(--k7)}.b8{--k:var(--b8)}.b4{--k:var(--b4)}.b3{--k:var(--b3)}.b2{--k:var(--b2)}
.bar{fill:var(--k)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;font-size:.875rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}dd p{margin:0}code{font-family:ui-monospace,monospace}
@media(max-width:600px){dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}.summary{font-size:1rem}}
";
