// Enlarge pictures, copy the methods text. The page is complete without.
(function () {
  "use strict";
  function enlarge(frame) {
    frame.classList.toggle("large");
  }
  document.querySelectorAll(".frame").forEach(function (frame) {
    frame.addEventListener("click", function () { enlarge(frame); });
    frame.addEventListener("keydown", function (event) {
      if (event.key === "Enter") { enlarge(frame); }
    });
  });
  document.querySelectorAll("[data-copy]").forEach(function (button) {
    button.addEventListener("click", function () {
      var text = document.getElementById(button.dataset.copy);
      var range = document.createRange();
      range.selectNodeContents(text);
      var selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      var done = document.execCommand("copy");
      button.textContent = done ? "Copied" : "Selected: copy it with the keyboard";
    });
  });
})();
