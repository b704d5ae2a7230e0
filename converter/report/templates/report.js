"use strict";
(() => {
  const layers = JSON.parse(document.getElementById("layers").textContent);
  const svg = document.getElementById("view"), world = document.getElementById("world"), panel = document.getElementById("panel");
  const query = document.getElementById("query"), found = document.getElementById("found");
  const wide = +svg.dataset.width, high = +svg.dataset.height;
  let x = 0, y = 0, scale = 1, hits = [], at = -1;

  const show = () => {
    world.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
    svg.classList.toggle("far", scale < 0.28);
    svg.classList.toggle("mid", scale >= 0.28 && scale < 0.5);
  };
  const box = () => svg.getBoundingClientRect();
  const fitting = () => Math.min(box().width / wide, box().height / high);
  const fit = () => {
    scale = Math.min(fitting(), 1.2);
    x = (box().width - wide * scale) / 2;
    y = Math.max((box().height - high * scale) / 2, 0);
    show();
  };
  const zoom = (factor, cx = box().width / 2, cy = box().height / 2) => {
    const next = Math.min(Math.max(scale * factor, Math.min(fitting(), 1) / 2), 4);
    x = cx - (cx - x) * next / scale;
    y = cy - (cy - y) * next / scale;
    scale = next;
    show();
  };
  const centre = (place) => {
    scale = Math.max(scale, 0.8);
    x = box().width / 2 - place[0] * scale;
    y = box().height / 2 - place[1] * scale;
    show();
  };

  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const choose = (i, move) => {
    const layer = layers[i];
    for (const each of world.querySelectorAll(".chosen")) each.classList.remove("chosen");
    const row = world.querySelector(`[data-l="${i}"]`);
    if (row) row.parentNode.classList.add("chosen");
    if (move && layer.place) centre(layer.place);
    const facts = [["type", layer.type], ["", layer.summary],
      ...layer.bottoms.map(([name, shape]) => ["reads", `${name} ${shape}`]),
      ...layer.tops.map(([name, shape]) => ["makes", `${name} ${shape}`]),
      ["parameters", layer.parameters.toLocaleString("en")], ["multiply-adds", layer.multiply_adds.toLocaleString("en")],
      ["activations", `${layer.activations.toLocaleString("en")} bytes`], ["sees", layer.field]];
    const list = document.createElement("dl");
    for (const [name, value] of facts) if (value) list.append(element("dt", name), element("dd", value));
    panel.replaceChildren(element("h3", layer.name), list, element("pre", layer.text));
    panel.hidden = false;
  };

  const step = (by) => {
    if (!hits.length) return;
    at = (at + by + hits.length) % hits.length;
    choose(hits[at], true);
    found.textContent = `${at + 1} of ${hits.length}`;
  };
  const search = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (l) => [l.name, l.type, ...l.tops.map((top) => top.join(" "))].join(" ").toLowerCase();
    hits = words.length ? layers.flatMap((l, i) => words.every((w) => text(l).includes(w)) ? [i] : []) : [];
    const set = new Set(hits);
    for (const each of world.querySelectorAll(".hit")) each.classList.remove("hit");
    for (const row of world.querySelectorAll("[data-l]")) if (set.has(+row.dataset.l)) row.parentNode.classList.add("hit");
    svg.classList.toggle("searching", hits.length > 0);
    for (const row of document.querySelectorAll("tr[data-l]")) row.hidden = words.length > 0 && !set.has(+row.dataset.l);
    found.textContent = words.length ? (hits.length ? `${hits.length} found` : "none found") : "";
    at = -1;
  };

  const pointers = new Map();
  let moved = 0, pinch = 0;
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? 20 : 1);
    zoom(Math.exp(-Math.max(-80, Math.min(80, pixels)) / 250), event.clientX - box().left, event.clientY - box().top);
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event);
    moved = 0;
  });
  svg.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    pointers.set(event.pointerId, event);
    moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
    if (moved > 4 && !svg.hasPointerCapture(event.pointerId)) svg.setPointerCapture(event.pointerId);
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()], apart = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      if (pinch) zoom(apart / pinch, (a.clientX + b.clientX) / 2 - box().left, (a.clientY + b.clientY) / 2 - box().top);
      pinch = apart;
    } else {
      x += event.clientX - before.clientX;
      y += event.clientY - before.clientY;
      svg.classList.add("drag");
      show();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => {
    pointers.delete(event.pointerId);
    pinch = 0;
    svg.classList.remove("drag");
  });
  svg.addEventListener("click", (event) => {
    const row = moved < 5 && event.target.closest("[data-l]");
    if (row) choose(+row.dataset.l, false);
  });
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-l]");
    if (!row) return;
    choose(+row.dataset.l, true);
    document.getElementById("drawing").scrollIntoView({ behavior: "smooth" });
  });
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const keys = { "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit };
    if (moves[event.key]) {
      x += moves[event.key][0];
      y += moves[event.key][1];
      show();
    } else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
  query.addEventListener("input", search);
  query.addEventListener("keydown", (event) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
  });
  const save = () => {
    const copy = svg.cloneNode(true);
    copy.setAttribute("viewBox", `0 0 ${wide} ${high}`);
    copy.setAttribute("width", wide);
    copy.setAttribute("height", high);
    copy.removeAttribute("class");
    copy.querySelector("#world").removeAttribute("transform");
    const url = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
    Object.assign(document.createElement("a"), { href: url, download: "net.svg" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
  const buttons = { fit, in: () => zoom(1.25), out: () => zoom(0.8), next: () => step(1), before: () => step(-1), save };
  for (const button of document.querySelectorAll("button[data-do]")) button.addEventListener("click", buttons[button.dataset.do]);

  svg.removeAttribute("viewBox");
  fit();
  if (scale < 0.5) {  // too small to read: begin where the data come in
    scale = 0.8;
    x = 0;
    y = 0;
    show();
  }
})();
