// The viewer: niivue on the volumes of this page. Its state is in data attributes of #viewer.
(function () {
  "use strict";
  var root = document.getElementById("viewer");
  if (!root) { return; }
  var AXIS = { sagittal: 0, coronal: 1, axial: 2, three: 2, render: 2 };
  var TYPE = { axial: 0, coronal: 1, sagittal: 2, three: 3, render: 4 };
  var BLINK = 700, STEPS = 100;  // ms; of a slider
  var config = JSON.parse(document.getElementById("viewer-config").textContent);
  var find = function (name) { return document.getElementById("viewer-" + name); };
  var images = {}, limits = {}, plane = "three", nv = null, cut = 1, timer = null;

  function entry(key) {
    return config.volumes.find(function (v) { return v.key === key; });
  }

  function number(value) {
    return Math.abs(value) >= 1e4 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  }

  function colourMap(table) {
    var level = table.R.map(function (_, k) { return Math.round(k * 255 / (table.R.length - 1)); });
    return { R: table.R, G: table.G, B: table.B, A: level.map(function () { return 255; }), I: level };
  }

  async function load() {
    nv = new niivue.Niivue({
      backColor: [0.055, 0.067, 0.086, 1], crosshairColor: [0.35, 0.77, 0.87, 0.8], crosshairWidth: 0.35,
      isRadiologicalConvention: true, sagittalNoseLeft: true, isColorbar: false, dragAndDropEnabled: false, logLevel: "error",
      loadingText: "", fontMinPx: 15, fontSizeScaling: 0.6, multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, show3Dcrosshair: true, fontColor: [0.35, 0.77, 0.87, 1], showAllOrientationMarkers: true,
      multiplanarPadPixels: 8,
      clipPlaneColor: [0, 0, 0, 0], isClipAllVolumes: true
    });
    await nv.attachToCanvas(find("canvas"));
    Object.keys(config.palettes).forEach(function (name) {
      nv.addColormap("medfuse-" + name, colourMap(config.palettes[name].colours));
    });
    nv.addColormap("medfuse-outline", { R: [88, 88], G: [196, 196], B: [221, 221], A: [0, 255], I: [0, 255] });
    for (var v of config.volumes) {
      limits[v.key] = [v.low, v.high];
      images[v.key] = await niivue.NVImage.loadFromBase64({
        base64: document.getElementById("volume-" + v.key).textContent, name: v.key + ".nii.gz",
        colormap: v.role === "overlay" ? "medfuse-" + find("palette").value : v.role === "outline" ? "medfuse-outline" : "gray",
        opacity: 1, cal_min: v.low, cal_max: v.high
      });
    }
    nv.setRenderAzimuthElevation(115, 30);
    nv.onLocationChange = moved;
    compose();
    nv.scene.crosshairPos = nv.mm2frac(config.start);
    show("three");
  }

  // Slider to window and back: level is its centre, window its width, both over what the window was at first.
  function windows(role) {
    var shown = entry(find(role).value);
    if (!shown || shown.role === "colour") { return; }
    var first = shown.high - shown.low, width = Math.max(find(role + "-window").value / STEPS, 0.01) * first;
    var centre = shown.low + find(role + "-level").value / STEPS * first;
    config.volumes.forEach(function (v) {  // a source and its restoration share a window
      if (v.kin === shown.kin) { limits[v.key] = [centre - width / 2, centre + width / 2]; }
    });
    compose();
  }

  function sliders(role) {
    var shown = entry(find(role).value), still = !shown || shown.role === "colour";
    ["window", "level"].forEach(function (name) { find(role + "-" + name).disabled = still; });
    if (still) { return; }
    var first = shown.high - shown.low, low = limits[shown.key][0], high = limits[shown.key][1];
    find(role + "-window").value = Math.round((high - low) / first * STEPS);
    find(role + "-level").value = Math.round(((high + low) / 2 - shown.low) / first * STEPS);
  }

  function compose() {
    var base = find("base").value, overlay = find("overlay").value, outline = config.outline && find("outline").checked;
    var coloured = entry(base).role === "colour";
    find("overlay").disabled = coloured;
    if (coloured) { overlay = ""; }
    nv.volumes = [images[base]];
    images[base].opacity = 1;
    if (overlay) {
      nv.volumes.push(images[overlay]);
      images[overlay].opacity = Number(find("opacity").value) / 100;
      images[overlay].colormap = "medfuse-" + find("palette").value;
      // Niivue takes a palette's alpha as all or nothing. Modulated by its own values, the overlay is clear at the low
      // end of its window and as opaque as chosen at the high end.
      images[overlay].modulationImage = 1;
      images[overlay].modulateAlpha = 1;
    }
    [base, overlay].filter(Boolean).forEach(function (key) {  // last: a palette brings limits of its own
      if (entry(key).role !== "colour") { images[key].cal_min = limits[key][0]; images[key].cal_max = limits[key][1]; }
    });
    if (outline) { nv.volumes.push(images[config.outline]); }
    nv.setVolume(images[base], 0);
    root.dataset.base = base;
    root.dataset.overlay = overlay;
    root.dataset.opacity = find("opacity").value;
    root.dataset.palette = find("palette").value;
    root.dataset.outline = String(Boolean(outline));
    root.dataset.window = [base, overlay].filter(Boolean).map(function (key) {
      return limits[key].map(number).join(" to ");
    }).join("; ");
    var scaled = coloured ? entry(base) : overlay ? entry(overlay) : null;
    find("low").textContent = scaled ? number(limits[scaled.key][0]) : "";
    find("high").textContent = scaled ? number(limits[scaled.key][1]) + " " + scaled.unit : "";
    root.querySelector(".scale").style.visibility = scaled ? "visible" : "hidden";
    if (scaled) { find("bar").style.background = coloured ? scaled.bar : config.palettes[find("palette").value].bar; }
    find("bar").classList.toggle("levels", Boolean(coloured));
    sliders("base");
    sliders("overlay");
    located();
  }

  function count() { return nv.volumes[0].dimsRAS[AXIS[plane] + 1]; }

  function show(name) {
    plane = name;
    cut = 1;  // 3-D starts whole
    nv.setSliceType(TYPE[name]);
    cutAway();
    root.querySelectorAll("[data-plane]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.plane === name));
    });
    find("slice").max = count() - 1;
    root.dataset.shown = name;
    located();
  }

  function slice(index) {
    if (plane === "render") { cut = (index + 1) / count(); }
    nv.scene.crosshairPos[AXIS[plane]] = (index + 0.5) / count();
    cutAway();
    nv.drawScene();
    located();
  }

  // In 3-D, the slider cuts away what lies above; at its end nothing is.
  function cutAway() {
    nv.setClipPlane(plane === "render" && cut < 1 ? [cut - 0.5, 0, 90] : [2, 0, 0]);
    root.dataset.whole = String(cut >= 1);
  }

  function moved() { located(); }

  function valueAt(key, at) {
    var image = images[key], dims = image.dimsRAS;
    var place = [0, 1, 2].map(function (d) { return Math.max(0, Math.min(dims[d + 1] - 1, Math.floor(at[d] * dims[d + 1]))); });
    return image.getValue(place[0], place[1], place[2]);
  }

  // Place, and the values of both sources there, given and restored, whatever is shown.
  function tell(at) {
    var mm = nv.frac2mm(at);
    var parts = ["L", "P", "I"].map(function (low, axis) {
      return (mm[axis] < 0 ? low : ["R", "A", "S"][axis]) + " " + Math.abs(mm[axis]).toFixed(0);
    });
    var values = config.probes.map(function (p) { return p.label + " " + number(valueAt(p.key, at)) + " " + p.unit; });
    var shown = entry(find("base").value);
    if (shown.role === "base" && !config.probes.some(function (p) { return p.key === shown.key; })) {
      values.push(shown.label + " " + number(valueAt(shown.key, at)) + " " + shown.unit);
    }
    find("readout").textContent = parts.join(", ") + " mm: " + values.join("; ");
  }

  function located() {
    var at = nv.scene.crosshairPos;
    var index = plane === "render" ? Math.round(cut * count()) - 1 : Math.min(count() - 1, Math.floor(at[AXIS[plane]] * count()));
    find("slice").value = index;
    root.dataset.slice = index;
    tell(at);
  }

  function hovered(event) {
    var mouse = nv.getNoPaddingNoBorderCanvasRelativeMousePosition(event, nv.gl.canvas);
    if (!mouse) { return; }
    var at = nv.canvasPos2frac([mouse.x * nv.uiData.dpr, mouse.y * nv.uiData.dpr]);
    if (at[0] >= 0 && at[0] <= 1) { tell(at); } else { tell(nv.scene.crosshairPos); }
  }

  // Given against restored: what is shown of each source is exchanged for its twin.
  function turn() {
    ["base", "overlay"].forEach(function (role) {
      var shown = entry(find(role).value);
      if (shown && shown.twin) { find(role).value = shown.twin; }
    });
    compose();
    var shown = [entry(find("base").value), entry(find("overlay").value)].filter(function (v) { return v && v.twin; });
    root.dataset.turned = shown.length ? (shown[shown.length - 1].restored ? "restored" : "given") : "";
    find("turned").textContent = root.dataset.turned;
  }

  function blink() {
    var on = timer === null;
    find("blink").setAttribute("aria-pressed", String(on));
    root.dataset.blink = String(on);
    if (on) { turn(); timer = setInterval(turn, BLINK); } else { clearInterval(timer); timer = null; }
  }

  function ready() {
    root.dataset.state = "ready";
    root.querySelectorAll("[data-plane]").forEach(function (button) {
      button.addEventListener("click", function () { show(button.dataset.plane); });
    });
    find("slice").addEventListener("input", function () { slice(Number(this.value)); });
    ["opacity"].forEach(function (name) { find(name).addEventListener("input", compose); });
    ["base", "overlay", "palette"].forEach(function (name) { find(name).addEventListener("change", compose); });
    ["base", "overlay"].forEach(function (role) {
      ["window", "level"].forEach(function (name) {
        find(role + "-" + name).addEventListener("input", function () { windows(role); });
      });
    });
    if (find("outline")) { find("outline").addEventListener("change", compose); }
    if (find("turn")) {
      find("turn").addEventListener("click", turn);
      find("blink").addEventListener("click", blink);
    }
    find("canvas").addEventListener("pointermove", hovered);
    find("canvas").addEventListener("pointerleave", located);
  }

  function failed(error) {
    root.dataset.state = "unavailable";
    root.dataset.error = String(error);
    find("message").textContent = "The viewer needs WebGL 2, which this browser does not offer. The pictures do not need it.";
  }

  root.dataset.state = "loading";
  find("message").textContent = "Loading the viewer";
  load().then(ready, failed);
})();
