"use strict";
// Figures are drawn when they come into sight: what is folded has no size before.
const draw = (canvas) => {
  const figure = JSON.parse(canvas.nextElementSibling.textContent);
  figure.layout.dragmode = false; // a finger on a figure scrolls the page
  Plotly.newPlot(canvas, figure.data, figure.layout, {responsive: true, displayModeBar: false});
};
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    seen.unobserve(entry.target);
    draw(entry.target);
  }
}, {rootMargin: "600px"});
document.querySelectorAll(".canvas").forEach((canvas) => seen.observe(canvas));
addEventListener("beforeprint", () => document.querySelectorAll(".canvas:empty").forEach(draw));
