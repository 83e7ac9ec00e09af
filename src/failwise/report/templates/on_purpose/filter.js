"use strict";
(() => {
  const form = document.getElementById("filter");
  const said = document.getElementById("shown");
  const apply = () => {
    const task = form.elements.task.value;
    const mode = form.elements.mode.value;
    let shown = 0;
    for (const one of document.querySelectorAll("[data-task], [data-mode]")) {
      const of = one.dataset;
      const other = (task && of.task && of.task !== task) || (mode && of.mode && of.mode !== mode);
      // All tasks together, or each on its own: not both.
      const double = "sum" in of && (of.task ? !task : task);
      one.hidden = Boolean(other || double);
      if (one.hidden) one.querySelectorAll("video").forEach((video) => video.pause());
      if (one.matches(".example") && !one.hidden) shown += 1;
    }
    said.textContent = `${shown} of ${said.dataset.all} examples shown`;
    for (const note of document.querySelectorAll("[data-none]")) {
      const list = document.getElementById(note.dataset.none);
      note.hidden = [...list.children].some((one) => !one.hidden);
    }
  };
  const choose = (task, mode) => {
    form.elements.task.value = task;
    form.elements.mode.value = mode;
    apply();
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  for (const link of document.querySelectorAll("a[data-choose]")) {
    link.addEventListener("click", () => choose(link.dataset.choose, link.dataset.chooseMode));
  }
  form.hidden = false;
  apply();
})();
