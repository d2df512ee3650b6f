// One picture at a time, by a slider. Without this, all pictures stand one under the other.
"use strict";

const slider = document.querySelector(".slider");
const input = document.getElementById("sample");
const figures = [...document.querySelectorAll("#pictures figure")];

function show() {
  figures.forEach((figure, place) => { figure.hidden = place !== Number(input.value); });
  input.setAttribute("aria-valuetext", figures[Number(input.value)].dataset.name);
}

figures.forEach((figure) => { figure.querySelector("img").loading = "eager"; });
slider.hidden = false;
input.addEventListener("input", show);
show();
