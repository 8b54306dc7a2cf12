// The viewer: niivue on the volumes of this page. Its state is in data attributes of #viewer.
(function () {
  "use strict";
  var root = document.getElementById("viewer");
  if (!root) { return; }
  var AXIS = { sagittal: 0, coronal: 1, axial: 2, three: 2, render: 2 };
  var TYPE = { axial: 0, coronal: 1, sagittal: 2, three: 3, render: 4 };
  var config = JSON.parse(document.getElementById("viewer-config").textContent);
  var find = function (name) { return document.getElementById("viewer-" + name); };
  var images = {}, plane = "three", nv = null;

  function entry(key) {
    return config.volumes.find(function (v) { return v.key === key; });
  }

  function number(value) {
    return Math.abs(value) >= 1e4 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
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
    nv.addColormap("medfuse", config.palette);
    for (var v of config.volumes) {
      images[v.key] = await niivue.NVImage.loadFromBase64({
        base64: document.getElementById("volume-" + v.key).textContent, name: v.key + ".nii.gz",
        colormap: v.role === "base" ? "gray" : "medfuse", opacity: 1, cal_min: v.low, cal_max: v.high
      });
    }
    nv.setRenderAzimuthElevation(115, 30);
    nv.onLocationChange = moved;
    compose();
    nv.scene.crosshairPos = nv.mm2frac(config.start);
    show("three");
  }

  function compose() {
    var base = find("base").value, overlay = find("overlay").value;
    nv.volumes = overlay ? [images[base], images[overlay]] : [images[base]];
    images[base].opacity = 1;
    if (overlay) {
      images[overlay].opacity = Number(find("opacity").value) / 100;
      // Niivue takes a palette's alpha as all or nothing. Modulated by its own values, the overlay is clear at the low
      // end of its window and as opaque as chosen at the high end.
      images[overlay].modulationImage = 1;
      images[overlay].modulateAlpha = 1;
    }
    nv.setVolume(images[base], 0);
    root.dataset.base = base;
    root.dataset.overlay = overlay;
    root.dataset.opacity = find("opacity").value;
    var shown = overlay ? entry(overlay) : null;
    find("low").textContent = shown ? number(shown.low) : "";
    find("high").textContent = shown ? number(shown.high) + " " + shown.unit : "";
    root.querySelector(".scale").style.visibility = shown ? "visible" : "hidden";
    located();
  }

  function count() { return nv.volumes[0].dimsRAS[AXIS[plane] + 1]; }

  function show(name) {
    plane = name;
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
    nv.scene.crosshairPos[AXIS[plane]] = (index + 0.5) / count();
    cutAway();
    nv.drawScene();
    located();
  }

  // In 3-D, the slice cuts away what lies above it.
  function cutAway() {
    nv.setClipPlane(plane === "render" || plane === "three" ? [nv.scene.crosshairPos[2] - 0.5, 0, 90] : [2, 0, 0]);
  }

  function moved() {
    cutAway();
    located();
  }

  function located() {
    var at = nv.scene.crosshairPos, mm = nv.frac2mm(at);
    var index = Math.min(count() - 1, Math.floor(at[AXIS[plane]] * count()));
    find("slice").value = index;
    root.dataset.slice = index;
    var parts = ["L", "P", "I"].map(function (low, axis) {
      return (mm[axis] < 0 ? low : ["R", "A", "S"][axis]) + " " + Math.abs(mm[axis]).toFixed(0);
    });
    var values = nv.volumes.map(function (image) {
      var v = entry(image.name.replace(/\.nii(\.gz)?$/, "")), dims = image.dimsRAS;
      var place = [0, 1, 2].map(function (d) { return Math.min(dims[d + 1] - 1, Math.floor(at[d] * dims[d + 1])); });
      return v.label + " " + number(image.getValue(place[0], place[1], place[2])) + " " + v.unit;
    });
    find("readout").textContent = parts.join(", ") + " mm: " + values.join("; ");
  }

  function ready() {
    root.dataset.state = "ready";
    root.querySelectorAll("[data-plane]").forEach(function (button) {
      button.addEventListener("click", function () { show(button.dataset.plane); });
    });
    find("slice").addEventListener("input", function () { slice(Number(this.value)); });
    find("opacity").addEventListener("input", compose);
    find("base").addEventListener("change", compose);
    find("overlay").addEventListener("change", compose);
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
