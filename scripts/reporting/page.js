/* Draws the curves of a report and says the values under the pointer; a page that is served renews itself.
   In: the JSON in #curves, the settings of the page on <body>. Out: SVG in each .plot. Nothing is loaded from elsewhere. */
"use strict";
(() => {
  const COLORS = ["#0b6bcb", "#d1495b", "#2a9d5c", "#b07d12", "#7a4fbf", "#00838f", "#8d5a3b", "#555555"];
  const HEIGHT = 220, LEFT = 56, RIGHT = 10, TOP = 8, BOTTOM = 22;
  const color = (run) => COLORS[run % COLORS.length];

  function short(value) {
    const size = Math.abs(value);
    for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= unit) return `${+(value / unit).toPrecision(4)}${letter}`;
    }
    return size > 0 && size < 1e-3 ? value.toExponential(2) : `${+value.toPrecision(5)}`;
  }

  function ticks(low, high, count) {
    const step = 10 ** Math.floor(Math.log10((high - low) / count));
    const wide = [1, 2, 5, 10].map((factor) => factor * step).find((size) => (high - low) / size <= count);
    const found = [];
    for (let at = Math.ceil(low / wide) * wide; at <= high; at += wide) found.push(at);
    return found;
  }

  /* The range of a number in all points, a little wider than they are. */
  function range(points, place, margin) {
    let low = Infinity, high = -Infinity;
    for (const point of points) {
      low = Math.min(low, point[place]);
      high = Math.max(high, point[place]);
    }
    const more = (high - low) * margin || Math.abs(high) * 0.05 || 1;
    return [low - more, high + more];
  }

  function scaled(chart) {
    const height = chart.log ? (value) => Math.log10(Math.max(value, 1e-12)) : (value) => value;
    return chart.series.map((series) => ({ ...series, at: series.points.map(([x, y]) => [x, height(y)]) }));
  }

  function draw(figure, chart) {
    const plot = figure.querySelector(".plot"), reading = figure.querySelector(".reading");
    const width = Math.max(plot.clientWidth, 160);
    const all = scaled(chart), points = all.flatMap((series) => series.at);
    const [x0, x1] = range(points, 0, 0), [y0, y1] = range(points, 1, 0.05);
    const X = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    const Y = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    const parts = [`<svg viewBox="0 0 ${width} ${HEIGHT}" height="${HEIGHT}" role="img">`];
    for (const y of ticks(y0, y1, 5)) {
      const label = short(chart.log ? 10 ** y : y);
      parts.push(`<line x1="${LEFT}" x2="${width - RIGHT}" y1="${Y(y)}" y2="${Y(y)}" stroke="#e5e5e5"/>`);
      parts.push(`<text x="${LEFT - 5}" y="${Y(y) + 4}" text-anchor="end">${label}</text>`);
    }
    for (const x of ticks(Math.max(x0, 0), x1, width > 400 ? 6 : 4)) {
      if (x >= x0) parts.push(`<text x="${X(x)}" y="${HEIGHT - 6}" text-anchor="middle">${short(x)}</text>`);
    }
    for (const series of all) {
      const path = series.at.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`);
      const dash = series.style === "line" ? "" : ' stroke-dasharray="4 3"';
      parts.push(`<polyline points="${path.join(" ")}" fill="none" stroke="${color(series.run)}"${dash}/>`);
      if (series.style === "dots" || path.length === 1) {
        for (const place of path) {
          const [x, y] = place.split(",");
          parts.push(`<circle cx="${x}" cy="${y}" r="3" fill="${color(series.run)}"/>`);
        }
      }
    }
    parts.push(`<line class="hand" y1="${TOP}" y2="${HEIGHT - BOTTOM}" stroke="#999" visibility="hidden"/></svg>`);
    plot.innerHTML = parts.join("");
    const hand = plot.querySelector(".hand"), svg = plot.firstElementChild;
    const several = new Set(all.map((series) => series.run)).size > 1;

    function say(event) {
      const box = svg.getBoundingClientRect();
      const x = x0 + (((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - RIGHT) * (x1 - x0);
      const nearest = (series) => series.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      const found = all.map((series) => [series, nearest(series)]);
      const there = found.reduce((a, b) => (Math.abs(b[1][0] - x) < Math.abs(a[1][0] - x) ? b : a))[1][0];
      hand.setAttribute("x1", X(there));
      hand.setAttribute("x2", X(there));
      hand.setAttribute("visibility", "visible");
      reading.replaceChildren(`${short(there)} tokens:`);
      for (const [series, point] of found) {
        const key = document.createElement("span");
        key.className = "key";
        key.style.background = color(series.run);
        const name = several ? `${names()[series.run]}, ${series.name}` : series.name;
        reading.append(key, `${name} ${short(point[1])}`);
      }
    }
    svg.addEventListener("pointermove", say);
    svg.addEventListener("pointerdown", say);
  }

  const data = () => JSON.parse(document.getElementById("curves").textContent);
  const names = () => data().names;

  function drawAll() {
    const { charts } = data();
    document.querySelectorAll("figure[data-chart]").forEach((figure) => draw(figure, charts[+figure.dataset.chart]));
    document.querySelectorAll(".key[data-run]").forEach((key) => { key.style.background = color(+key.dataset.run); });
  }

  /* Takes over the newest page, and leaves open what the reader has opened. */
  function renew(text) {
    const open = [...document.querySelectorAll("details[open]")].map((part) => part.id);
    const page = new DOMParser().parseFromString(text, "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    drawAll();
  }

  async function follow(seconds, tag) {
    const note = document.getElementById("note");
    try {
      const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        renew(await answer.text());
      }
      note.textContent = answer.status >= 400 ? await answer.text() : "";
    } catch {
      note.textContent = "No answer from the server of this page; it may have been stopped.";
    }
    setTimeout(follow, seconds * 1000, seconds, tag);
  }

  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  drawAll();
  const every = +document.body.dataset.every;
  if (every) setTimeout(follow, every * 1000, every, document.body.dataset.tag);
})();
