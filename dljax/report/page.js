// Reads the values of a panel under the pointer. The page is complete without it.
"use strict";
for (const panel of document.querySelectorAll("[data-hover]")) {
  const hover = JSON.parse(panel.dataset.hover);
  const tip = panel.appendChild(document.createElement("div"));
  const cursor = panel.appendChild(document.createElement("div"));
  tip.className = "tip";
  cursor.className = "cursor";
  const hide = () => { tip.hidden = cursor.hidden = true; };
  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1; else high = middle;
    }
    return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
  };
  const row = (text, colour) => {
    const line = tip.appendChild(document.createElement("div"));
    if (colour !== undefined) {
      const chip = line.appendChild(document.createElement("i"));
      chip.className = `chip b${colour}`;
    }
    line.append(text);
  };
  hide();
  panel.addEventListener("pointerleave", hide);
  panel.addEventListener("pointermove", (event) => {
    const drawing = event.target.closest(".drawing");
    const lines = hover.lines.filter((line) => line.steps.length);
    if (!drawing || !lines.length) return hide();
    const frame = drawing.getBoundingClientRect(), outer = panel.getBoundingClientRect();
    const left = frame.left + hover.left * frame.width, right = frame.left + hover.right * frame.width;
    const share = Math.min(1, Math.max(0, (event.clientX - left) / (right - left)));
    const wanted = hover.first + share * (hover.last - hover.first);
    const steps = lines.map((line) => line.steps[nearest(line.steps, wanted)]);
    const step = steps.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    const x = left + (hover.last > hover.first ? (step - hover.first) / (hover.last - hover.first) : 0) * (right - left);
    tip.replaceChildren();
    row(`step ${step.toLocaleString("en").replaceAll(",", "\u202f")}`);
    lines.forEach((line, index) => {
      const at = steps[index] === step ? "" : ` (step ${steps[index]})`;
      row(`${line.label}: ${line.values[line.steps.indexOf(steps[index])]}${at}`, line.colour);
    });
    tip.hidden = cursor.hidden = false;
    cursor.style.left = `${x - outer.left - 1}px`;
    cursor.style.top = `${frame.top - outer.top}px`;
    cursor.style.height = `${frame.height}px`;
    const room = outer.right - x - 16;
    tip.style.left = `${room > tip.offsetWidth ? x - outer.left + 12 : Math.max(4, x - outer.left - 12 - tip.offsetWidth)}px`;
    tip.style.top = `${frame.top - outer.top + 8}px`;
  });
}
