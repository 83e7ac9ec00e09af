// Videos, curves and labels of the explorer. A video frame is a recorded look; the cursor shows the look's step.
"use strict";

function setUp(player) {
  const timing = JSON.parse(player.dataset.timing);
  const lead = player.querySelector("[data-lead]");
  const charts = player.querySelectorAll("[data-chart]");
  let step = 0;

  const frameOf = (wanted) => {
    let frame = 0;
    timing.looks.forEach((look, i) => { if (look <= wanted) frame = i; });
    return frame;
  };
  const show = (to) => {
    step = to;
    player.querySelector("[data-step]").value = Math.round(step);
    player.querySelector("[data-seconds]").value = (step / timing.hz).toFixed(1);
    for (const cursor of player.querySelectorAll("[data-cursor]")) {
      const x = (cursor.ownerSVGElement.viewBox.baseVal.width * step) / Math.max(1, timing.steps);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
    }
  };
  const seek = (wanted) => {
    if (lead && timing.looks.length) lead.currentTime = (frameOf(wanted) + 0.5) / timing.fps;
    show(Math.max(0, Math.min(timing.steps, wanted)));
  };
  const follow = () => {
    const frame = Math.min(timing.looks.length - 1, Math.floor(lead.currentTime * timing.fps));
    show(timing.looks[frame] ?? 0);
    for (const other of player.querySelectorAll("[data-follow]")) {
      if (Math.abs(other.currentTime - lead.currentTime) > 0.5 / timing.fps) other.currentTime = lead.currentTime;
    }
    if (!lead.paused && !lead.ended) requestAnimationFrame(follow);
  };

  if (lead) {
    lead.addEventListener("play", follow);
    lead.addEventListener("pause", follow);
    lead.addEventListener("seeked", () => { if (frameOf(step) !== Math.floor(lead.currentTime * timing.fps)) follow(); });
  }
  for (const chart of charts) {
    const go = (event) => {
      const box = chart.getBoundingClientRect();
      seek(Math.round((timing.steps * (event.clientX - box.left)) / box.width));
    };
    chart.addEventListener("pointerdown", (event) => { chart.setPointerCapture(event.pointerId); go(event); });
    chart.addEventListener("pointermove", (event) => { if (event.buttons) go(event); });
  }
  for (const button of player.querySelectorAll("[data-seek]")) {
    button.addEventListener("click", () => seek(Number(button.dataset.seek)));
  }
  show(0);
  return { timing, lead, seek, step: () => Math.round(step) };
}

const players = [...document.querySelectorAll("[data-player]")].map(setUp);

const take = document.querySelector("[data-take]");
if (take) take.addEventListener("click", () => { document.querySelector("[data-onset]").value = players[0].step(); });

const both = document.querySelector("[data-play-both]");
if (both) {
  let running = 0;
  both.addEventListener("click", () => {
    if (running) {
      cancelAnimationFrame(running);
      running = 0;
      both.textContent = "Play both";
      return;
    }
    // By steps, not by frames: the two may have been recorded at different steps.
    const last = Math.max(...players.map((p) => p.timing.steps));
    const begin = performance.now();
    const tick = (now) => {
      const at = ((now - begin) / 1000) * players[0].timing.hz;
      for (const player of players) player.seek(Math.min(at, player.timing.steps));
      running = at < last ? requestAnimationFrame(tick) : 0;
      if (!running) both.textContent = "Play both";
    };
    both.textContent = "Stop";
    running = requestAnimationFrame(tick);
  });
}
