"""The page of :mod:`.html_report`: HTML and CSS, without scripts."""

TEMPLATE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="swin-pos-det {{ metrics.versions.swin_pos_det }}">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --text: #1c2128; --soft: #59636e; --line: #d9dee4;
  --accent: #2563eb; --fill: #2563eb2e; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --card: #181d24; --text: #e6e9ed; --soft: #9aa5b1;
  --line: #2e3742; --accent: #7aa7ff; --fill: #7aa7ff3d; --good: #5fd08a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 18px 0 8px; }
p { margin: 0 0 12px; } .soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 12px; margin-top: 18px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.plot { background: #fff; border-radius: 8px; padding: 8px; text-align: center; }
.plot img { max-width: 100%; height: auto; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 10px 30px;
  align-items: start; }
@media (min-width: 720px) { .narrow { grid-template-columns: 220px 1fr; }
  .wide { grid-template-columns: 3fr 2fr; } }
.scroll { overflow: auto; max-height: 640px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 13px; position: sticky; top: 0; background: var(--card); }
th:first-child, td:first-child, .facts td { text-align: left; }
tr:last-child td { border-bottom: 0; }
.facts td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.facts td:first-child { color: var(--soft); white-space: nowrap; width: 1%; }
.bar { min-width: 130px; background: linear-gradient(var(--fill), var(--fill)) no-repeat 0 50% / var(--share) 72%;
  font-weight: 600; }
.images { columns: 480px 2; column-gap: 16px; }
figure { margin: 0 0 14px; break-inside: avoid; }
figure img { width: 100%; height: auto; border-radius: 6px; display: block; background: #fff; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 12px; font-size: 13px; padding: 5px 2px; }
figcaption b { overflow-wrap: anywhere; } .good { color: var(--good); } .bad { color: var(--bad); }
footer { color: var(--soft); font-size: 13px; margin-top: 22px; }
@media print { body { background: #fff; } section, .tile, figure { break-inside: avoid; }
  .scroll { max-height: none; } }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="soft">Report of a training with swin-pos-det, made on {{ made }}</p>
{% if tiles %}
<div class="tiles">
{% for name, value in tiles %}
<div class="tile"><b>{{ value }}</b><span>{{ name }}</span></div>
{% endfor %}
</div>
{% endif %}

<section>
<h2>Training</h2>
<div class="plot"><img alt="losses and AP over the iterations" src="{{ curves }}"></div>
<h3>The run</h3>
<table class="facts">
{% for name, value in facts.items() %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</table>
</section>

{% if no_evaluation %}
<section>
<h2>Validation</h2>
<p>The checkpoint was not evaluated for this page: {{ no_evaluation }}.</p>
</section>
{% endif %}
{% for score in scores %}
<section>
<h2>{{ score.kind | capitalize }} AP on the validation data</h2>
<div class="columns narrow">
<table>
<tr><th></th><th>%</th></tr>
{% for name, value in score.all %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</table>
<table>
<tr><th>size of objects</th><th>AP, %</th><th>AR, %</th></tr>
{% for name, share, ap, ar in score.sizes %}
<tr><td>{{ name }}</td><td class="bar" style="--share: {{ share }}%">{{ ap }}</td><td>{{ ar }}</td></tr>
{% endfor %}
</table>
</div>
<h3>By class</h3>
<div class="scroll">
<table>
<tr><th>class</th><th>objects</th><th>detections</th><th>AP, %</th>
{% for name in score.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in score.classes %}
<tr><td>{{ row.name }}</td><td>{{ row.objects }}</td><td>{{ row.detections }}</td>
<td class="bar" style="--share: {{ row.share }}%">{{ row.AP }}</td>
{% for value in row['values'] %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table>
</div>
</section>
{% endfor %}
{% if scores %}
<section>
<h2>Precision and recall</h2>
<div class="plot"><img alt="precision over recall" src="{{ precision_recall }}"></div>
</section>

<section>
<h2>Errors</h2>
<p>At score {{ score_threshold }} and IoU {{ iou_threshold }} of boxes: <b class="good">{{ totals.correct }} found</b>
with their class, <b class="bad">{{ totals.missed }} missed</b>, <b class="bad">{{ totals.false }} false</b>
detections (an object found as another class is both); precision {{ totals.precision }} %, recall
{{ totals.recall }} %.</p>
<div class="columns{% if matrix %} wide{% endif %}">
{% if matrix %}
<div class="plot"><img alt="confusion matrix" src="{{ matrix }}"></div>
{% endif %}
<div>
<h3>Most frequent confusions</h3>
{% if confusions %}
<table>
<tr><th>class</th><th style="text-align: left">found as</th><th>objects</th><th>% of the class</th></tr>
{% for name, found, number, share in confusions %}
<tr><td>{{ name }}</td><td style="text-align: left">{{ found }}</td><td>{{ number }}</td><td>{{ share }}</td></tr>
{% endfor %}
</table>
{% else %}
<p class="soft">No object was found as another class.</p>
{% endif %}
</div>
</div>
</section>
{% for name, about, figures in [
  ('Worst images', 'Lowest F1: most missed objects and false detections', worst),
  ('Best images', 'Highest F1, those with the most objects first', best)] %}
{% if figures %}
<section>
<h2>{{ name }}</h2>
<p class="soft">{{ about }}. Left: ground truth; right: detections with a score of {{ score_threshold }} or
more.</p>
<div class="images">
{% for figure in figures %}
<figure><img alt="ground truth and detections of {{ figure.name }}" src="{{ figure.picture }}">
<figcaption><b>{{ figure.name }}</b><span class="good">{{ figure.correct }} of {{ figure.objects }} found</span>
{% if figure.missed %}<span class="bad">{{ figure.missed }} missed</span>{% endif %}
{% if figure.false %}<span class="bad">{{ figure.false }} false</span>{% endif %}
<span class="soft">F1 {{ figure.f1 }} %</span></figcaption></figure>
{% endfor %}
</div>
</section>
{% endif %}
{% endfor %}
{% endif %}
<footer>
AP is COCO's, the mean over IoU 0.50 to 0.95, in percent; a dash: no such objects. Small, medium and large: below
32&sup2;, below 96&sup2;, and more square pixels. F1: the harmonic mean of precision and recall.<br>
{% for name, version in metrics.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}
</footer>
</main>
</body>
</html>
'''
