// The page: receives updates by one WebSocket, shows one camera at a time, sends commands by fetch. No library, and
// nothing from other sites.
"use strict";

const $ = (id) => document.getElementById(id);
const HISTORY_S = 120, SPEED_S = 120, STAGES = ["capture", "prepare", "queue", "infer", "decode"];
const clientId = Array.from(crypto.getRandomValues(new Uint8Array(6)), (b) => b.toString(16).padStart(2, "0")).join("");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

const cameras = new Map(); // name -> {name, models, status, prediction, changes, speeds}
let shown = null; // the camera on the page
let socket = null, wait = 500, receivedAt = 0;
let region = null; // [x, y, w, h] while it is edited, else null
const hues = new Map();

// ---- small helpers

const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)} %`;
const setWidth = (element, share) => (element.style.width = `${100 * share}%`);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function hue(label) {
  if (!label) return "--soft";
  if (!hues.has(label)) hues.set(label, `--c${hues.size % 8}`);
  return hues.get(label);
}

// The colours of classes, as on the image: camapp/overlay/class_colours.py.
const CLASS_COLOURS = "4ec4e6 ff9f43 7bd672 ff6b8b b694ff ffe14d 35d6a8 ff8ad8 6fa8ff c5e063 ffb59e 9be8ff e0a3ff d9b36c 59f08c ff7846 a9b8ff f7a8c8 d4d46a 63dede".split(" ");
function classColour(label) {
  const value = Array.from(label).reduce((sum, char) => (sum * 3013 + char.codePointAt(0)) % 65521, 0);
  return `#${CLASS_COLOURS[value % CLASS_COLOURS.length]}`;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, text = "", name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

function showPairs(element, pairs) {
  const content = JSON.stringify(pairs);
  if (element.dataset.content === content) return;
  element.dataset.content = content;
  element.replaceChildren(...pairs.flatMap(([name, value, how]) => [make("dt", name), make("dd", value, how)]));
}

function toast(text, bad = false) {
  const note = make("p", text, bad ? "poor" : "");
  $("toasts").append(note);
  while ($("toasts").children.length > 3) $("toasts").firstChild.remove();
  setTimeout(() => note.remove(), bad ? 9000 : 5000);
}

function path(rest) {
  return `cameras/${encodeURIComponent(shown.name)}${rest}`;
}

async function sendCommand(name, body, button) {
  if (button) button.disabled = true;
  try {
    const answer = await fetch(path(`/api/${name}`), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, client: clientId }),
    });
    if (answer.status === 401) location.assign("login");
    const result = await answer.json();
    if (!answer.ok) throw new Error(result.error);
    return result;
  } catch (error) {
    toast(error.message || "The camera cannot be reached.", true);
    return null;
  } finally {
    if (button) button.disabled = false;
  }
}

// ---- the socket

function connect() {
  socket = new WebSocket(new URL("live", document.baseURI).href.replace(/^http/, "ws"));
  let opened = false;
  socket.onopen = () => {
    opened = true;
    wait = 500;
    receivedAt = Date.now();
    showConnection("good", "connected");
    watch();
  };
  socket.onmessage = (event) => {
    receivedAt = Date.now();
    receive(JSON.parse(event.data));
  };
  socket.onclose = async () => {
    showConnection("poor", "reconnecting");
    if (!opened && (await fetch("status").then((a) => a.status, () => 0)) === 401) location.assign("login");
    setTimeout(connect, wait + 200 * Math.random());
    wait = Math.min(2 * wait, 8000);
  };
}

function showConnection(how, text) {
  $("connection").className = `chip ${how}`;
  setText($("connection"), text);
  if (how === "poor") state("poor", "connection lost");
}

setInterval(() => {
  // An unplugged cable closes no socket.
  if (socket && socket.readyState === 1 && Date.now() - receivedAt > 6000) socket.close();
}, 2000);

function receive(message) {
  if (message.hello) showHello(message.hello);
  for (const [name, status] of Object.entries(message.status || {})) {
    const camera = cameras.get(name);
    camera.status = status;
    const figures = status.figures;
    camera.speeds.push([Date.now(), figures.infer_fps, figures.camera_fps]);
    while (camera.speeds[0][0] < Date.now() - SPEED_S * 1000) camera.speeds.shift();
    if (camera === shown) showStatus(status);
  }
  for (const [name, records] of Object.entries(message.predictions || {})) {
    const camera = cameras.get(name);
    for (const record of records) addChange(camera, Date.parse(record.time), record.summary, record.score);
    camera.prediction = records[records.length - 1];
  }
  for (const notice of message.notices || []) showNotice(notice);
}

function showHello(hello) {
  $("logout").hidden = !hello.locked;
  for (const { name, models, changes } of hello.cameras) {
    const known = cameras.get(name);
    const times = changes.map(([time, label, score]) => ({ at: Date.parse(time), label, score }));
    cameras.set(name, { speeds: known ? known.speeds : [], status: null, prediction: null, name, models, changes: times });
  }
  const wanted = decodeURIComponent(location.hash.slice(1));
  choose(shown && cameras.has(shown.name) ? shown.name : cameras.has(wanted) ? wanted : hello.cameras[0].name);
  buildTiles();
}

function addChange(camera, at, label, score) {
  const last = camera.changes[camera.changes.length - 1];
  if (last && last.label === label) last.score = score;
  else camera.changes.push({ at, label, score });
  while (camera.changes.length > 400) camera.changes.shift();
}

function showNotice(notice) {
  if (notice.by === clientId) return;
  const several = cameras.size > 1 ? `${notice.camera}: ` : "";
  const other = notice.by ? "Another page: " : "";
  toast(several + other + notice.text);
  if (region && shown && notice.camera === shown.name && notice.text.startsWith("region"))
    setText($("advice"), "Another page has just saved a region. Saving yours replaces it.");
}

// ---- the car: any page stops it; one page lets it drive, and says ten times a second that it is there

let grant = "", grantedAt = 0, driving = false;

function showDrive(drive) {
  $("drive").hidden = !drive;
  if (!drive) return;
  // A status from just before the release may come after its answer.
  if (!drive.driving && Date.now() - grantedAt > 400) grant = "";
  driving = drive.driving;
  const mine = drive.holder === clientId;
  $("drive").className = driving ? "driving" : "stopped";
  setText($("drive-state"), driving ? (mine ? "It drives for as long as this page is open." : "Another page lets it drive.") : `Stopped: ${drive.reason}.`);
  $("go").hidden = driving;
}

async function stopCar() {
  grant = "";
  setText($("drive-state"), "Stopping …");
  for (let attempt = 0; attempt < 3; attempt++) {
    const headers = { "content-type": "application/json" }, body = JSON.stringify({ go: false, client: clientId });
    const answer = await fetch("api/drive", { method: "POST", headers, body, keepalive: true }).catch(() => null);
    if (answer && answer.ok) return;
  }
  setText($("drive-state"), "No answer: switch the car off.");
  toast("The car cannot be reached: switch it off.", true);
}

$("stop").onclick = stopCar;
$("go").onclick = async () => {
  const result = await sendCommand("drive", { go: true }, $("go"));
  if (result) [grant, grantedAt] = [result.grant, Date.now()];
};
setInterval(() => {
  if (grant && socket.readyState === 1 && !socket.bufferedAmount) socket.send(JSON.stringify({ hold: grant }));
}, 100);
for (const kind of ["keydown", "keyup"])
  addEventListener(
    kind,
    (event) => {
      const typing = event.target.matches("input[type=text], input[type=number], select");
      if (event.code !== "Space" || $("drive").hidden || (typing && !driving)) return;
      // Before any button that has the focus.
      event.preventDefault();
      event.stopImmediatePropagation();
      if (kind === "keydown" && !event.repeat) stopCar();
    },
    true,
  );
// A hidden page cannot say that it is there: browsers slow its clock down.
document.addEventListener("visibilitychange", () => document.hidden && grant && stopCar());
addEventListener("pagehide", () => grant && stopCar());

// ---- the image

function watch() {
  if (!shown || document.hidden) return;
  $("image").src = `${path("/stream.mjpg")}?${Date.now()}`;
}

function choose(name) {
  shown = cameras.get(name);
  endEdit();
  closePlaces();
  $("model").replaceChildren(...shown.models.map((model) => new Option(model)));
  $("download").href = path("/snapshot.jpg");
  $("image").alt = `Live image of ${name}`;
  document.title = `${name} · camapp`;
  setText($("name"), name);
  if (cameras.size > 1) history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  if (shown.status) showStatus(shown.status);
  watch();
  for (const tile of $("cameras").children) tile.setAttribute("aria-current", tile.dataset.name === name);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) $("image").removeAttribute("src");
  else watch();
});
$("image").onerror = () => {
  if ($("image").hasAttribute("src")) setTimeout(watch, 1500);
};

function buildTiles() {
  $("cameras").hidden = cameras.size < 2;
  $("cameras").replaceChildren(
    ...Array.from(cameras.size < 2 ? [] : cameras.keys(), (name) => {
      const tile = make("button");
      const words = make("span", name);
      words.append(make("em"));
      tile.append(new Image(), words);
      tile.firstChild.alt = "";
      tile.dataset.name = name;
      tile.setAttribute("aria-current", shown && shown.name === name);
      tile.onclick = () => choose(name);
      return tile;
    }),
  );
}

function refreshTiles() {
  for (const tile of document.hidden ? [] : $("cameras").children) {
    const camera = cameras.get(tile.dataset.name);
    const label = camera.prediction ? camera.prediction.summary || "–" : "";
    const at = camera.status ? camera.status.state : "";
    setText(tile.querySelector("em"), at === "running" ? `${label} · ${camera.status.figures.infer_fps.toFixed(0)}/s` : at);
    if (tile.firstChild.complete && !["", "starting", "ended"].includes(at)) tile.firstChild.src = `cameras/${encodeURIComponent(camera.name)}/snapshot.jpg?${Date.now()}`;
  }
}

function state(how, text) {
  $("state").hidden = !text;
  $("state").className = `chip state ${how}`;
  setText($("state"), text);
}

// The picture within the image's element, which may be wider or higher.
function pictureRect() {
  const element = $("image").getBoundingClientRect(), image = $("image");
  const scale = Math.min(element.width / image.width, element.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  return { left: element.left + (element.width - width) / 2, top: element.top + (element.height - height) / 2, width, height };
}

function placeFrame() {
  const picture = pictureRect(), stage = $("stage").getBoundingClientRect(), frame = $("frame").style;
  [frame.left, frame.top] = [`${picture.left - stage.left}px`, `${picture.top - stage.top}px`];
  [frame.width, frame.height] = [`${picture.width}px`, `${picture.height}px`];
}
new ResizeObserver(() => {
  placeFrame();
  if (draft) drawDraft();
}).observe($("image"));

// ---- statistics

function showStatus(status) {
  const figures = status.figures, health = figures.health, paused = status.state === "paused";
  showDrive(status.drive);
  setText($("source"), `${figures.source} · ${figures.model}`);
  if (status.size && `${status.size}` !== `${[$("image").width, $("image").height]}`) {
    [$("image").width, $("image").height] = status.size;
    placeFrame();
  }
  const how = { running: "good", starting: "fair", paused: "fair" }[status.state] || "poor";
  state(how, status.state === "running" ? "live" : status.state + (status.reason ? `: ${status.reason}` : ""));
  $("pause").setAttribute("aria-pressed", paused);
  setText($("pause").lastChild, paused ? "Resume" : "Pause");
  $("statistics").setAttribute("aria-pressed", status.hud);
  if (document.activeElement !== $("model") && !$("model").disabled) $("model").value = status.model;

  showLabels(status);
  $("edit-places").hidden = status.task !== "detect";
  if (status.task !== "detect" && !$("places").hidden) closePlaces();
  listPlaces();

  const target = figures.target_fps;
  for (const [id, value] of [["fps-infer", figures.infer_fps], ["fps-camera", figures.camera_fps], ["fps-display", figures.display_fps]]) {
    setText($(id), value.toFixed(1));
    $(id).className = id === "fps-display" ? "" : rating(value, target);
  }
  const words = { good: "on target", fair: "slightly below target", poor: "below target" };
  setText($("rating"), `${words[rating(figures.infer_fps, target)]}: ${figures.infer_fps.toFixed(1)} of ${target} per second`);
  showLatency(status.latency_ms);

  const balance = status.balance;
  const lost = { ...balance.dropped, ...balance.failed };
  showPairs($("frames"), [
    ["captured", balance.captured.toLocaleString()],
    ["predicted", balance.predicted.toLocaleString()],
    ...Object.entries(lost).map(([reason, count]) => [`dropped: ${reason}`, count.toLocaleString(), "fair"]),
    ["in flight", String(balance.in_flight)],
    ...(balance.sensor_missed ? [["missed by the sensor", balance.sensor_missed.toLocaleString(), "fair"]] : []),
  ]);
  const sum = Object.values(lost).reduce((a, b) => a + b, balance.predicted + balance.in_flight);
  setText($("balance"), sum === balance.captured ? "Every frame is accounted for." : "The frame counts do not add up: please report it.");

  const alerts = [...health.now, ...(health.temperature_c >= 80 && !health.now.length ? ["hot"] : [])];
  $("alerts").className = `chip ${alerts.length ? "poor" : "good"}`;
  setText($("alerts"), alerts.length ? alerts.join(", ") : "no alerts");
  showPairs($("machine"), [
    ...(health.temperature_c === null ? [] : [["temperature", `${health.temperature_c.toFixed(0)} °C`]]),
    ...(health.cpu === null ? [] : [["CPU", percent(health.cpu)]]),
    ["workers", `${figures.workers}, ${percent(figures.workers_busy)} busy`],
    ["worker restarts", String(figures.restarts), figures.restarts ? "fair" : ""],
    ...(health.since_boot.length ? [["since boot", health.since_boot.join(", ")]] : []),
    ["uptime", duration(status.uptime_s)],
    ["viewers", String(status.watchers)],
  ]);
}

function rating(fps, target) {
  return fps >= 0.97 * target ? "good" : fps >= 0.8 * target ? "fair" : "poor";
}

function duration(seconds) {
  const [d, h, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

function showLatency(latency) {
  const rows = [...STAGES, "total"].filter((stage) => latency[stage]);
  const table = $("latency").tBodies[0];
  if (table.rows.length !== rows.length) {
    table.replaceChildren(...rows.map((stage, number) => {
      const row = make("tr"), head = make("th", stage), key = make("i");
      head.scope = "row";
      if (stage !== "total") {
        key.style.background = `var(--c${number})`;
        head.prepend(key);
      }
      row.append(head, make("td"), make("td"), make("td"));
      return row;
    }));
    $("stack").replaceChildren(...rows.filter((stage) => stage !== "total").map((_, number) => {
      const part = make("b");
      part.style.background = `var(--c${number})`;
      return part;
    }));
  }
  rows.forEach((stage, number) => {
    const values = latency[stage], cells = table.rows[number].cells;
    ["p50", "p95", "p99"].forEach((name, at) => setText(cells[at + 1], values[name].toFixed(1)));
    if (stage !== "total") $("stack").children[number].style.flexGrow = Math.max(0.001, values.p50);
  });
}

function showPrediction() {
  const record = shown && shown.prediction;
  if (!record) return;
  const findsObjects = Boolean(record.counts), label = record.summary;
  setText($("label"), label || (findsObjects ? "nothing in sight" : "no label"));
  $("label").className = `label${label ? "" : " none"}${findsObjects && label.length > 16 ? " long" : ""}`;
  $("score-bar").parentNode.hidden = findsObjects;
  setText($("score"), label && !findsObjects ? `score ${percent(record.score)}` : "");
  setWidth($("score-bar"), label ? record.score : 0);
  const truth = record.truth && record.truth.label;
  setText($("truth"), truth ? `truth: ${truth}` : "");
  $("truth").className = truth === label ? "right" : "wrong";
  showTop(findsObjects ? [] : record.top);
  showObjects(findsObjects ? record.boxes : []);
  showZones(record.zones || [], record.counting_lines || []);
  showPairs($("values"), Object.entries(record.values).map(([name, value]) => [name.replace(/_/g, " "), value === null ? "-" : String(+value.toFixed(3))]));
}

// Returns the rows of a list, as many as wanted; new ones have name, meter and number.
function rows(list, count) {
  while (list.children.length > count) list.lastChild.remove();
  while (list.children.length < count) {
    const row = make("li"), meter = make("div", "", "meter");
    meter.append(make("b"));
    row.append(make("span"), meter, make("span"));
    list.append(row);
  }
  return Array.from(list.children);
}

function showTop(top) {
  rows($("top"), top.length).forEach((row, number) => {
    const [name, score] = top[number];
    setText(row.children[0], name);
    setWidth(row.children[1].firstChild, score);
    setText(row.children[2], percent(score));
  });
}

// ---- objects

const MAX_OBJECTS = 12;
let marked = null; // the object that is marked on the image: its place in the list

function showObjects(boxes) {
  const listed = boxes.slice().sort((a, b) => a.label.localeCompare(b.label) || (a.track || 0) - (b.track || 0) || a.xyxy[0] - b.xyxy[0]);
  $("objects").hidden = !listed.length;
  const more = listed.length - MAX_OBJECTS;
  $("more").hidden = more <= 0;
  setText($("more"), `and ${more} more`);
  rows($("objects"), Math.min(listed.length, MAX_OBJECTS)).forEach((row, number) => {
    const box = listed[number], name = row.children[0], bar = row.children[1].firstChild;
    if (!name.children.length) {
      name.replaceChildren(make("i"), make("b"), make("em"));
      row.addEventListener("pointerenter", () => (marked = number));
      row.addEventListener("pointerleave", () => (marked = null));
    }
    name.children[0].style.background = bar.style.background = classColour(box.label);
    setText(name.children[1], box.label);
    setText(name.children[2], box.track ? ` #${box.track}` : "");
    setWidth(bar, box.score);
    setText(row.children[2], percent(box.score));
  });
  const box = marked === null || marked >= MAX_OBJECTS ? null : listed[marked];
  $("mark").hidden = !box || !shown.status || !shown.status.size;
  if ($("mark").hidden) return;
  const [width, height] = shown.status.size, [x0, y0, x1, y1] = box.xyxy, style = $("mark").style;
  [style.left, style.top] = [`${(100 * x0) / width}%`, `${(100 * y0) / height}%`];
  [style.width, style.height] = [`${(100 * (x1 - x0)) / width}%`, `${(100 * (y1 - y0)) / height}%`];
}

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);
const byLabel = (counts) => Object.entries(counts).map(([label, count]) => `${count} ${label}`).join(", ");

function showZones(zones, lines) {
  $("counting").hidden = !zones.length && !lines.length;
  showTable($("zones"), zones.map((zone) => [zone.name, zone.inside, zone.entered, zone.left, duration(zone.dwell_s)]));
  showTable($("lines"), lines.map((line) => [line.name, line.in, line.out]));
}

// Counts by label are shown as their sum; the labels are in the tooltip.
function showTable(table, records) {
  const content = JSON.stringify(records);
  if (table.dataset.content === content) return;
  table.dataset.content = content;
  table.hidden = !records.length;
  table.tBodies[0].replaceChildren(...records.map((record) => {
    const row = make("tr");
    record.forEach((value, at) => {
      const cell = make(at ? "td" : "th", typeof value === "object" ? String(total(value)) : value);
      if (!at) cell.scope = "row";
      if (typeof value === "object") cell.title = byLabel(value);
      row.append(cell);
    });
    return row;
  }));
}

let announcedAt = 0, announced = "";
function announce() {
  const record = shown && shown.prediction, label = record && record.summary;
  if (!$("announce").checked || !label || label === announced || Date.now() - announcedAt < 4000) return;
  announced = label;
  announcedAt = Date.now();
  // A change comes with the score of its image, as everywhere: the smoothed one has only begun to rise.
  const score = record.raw_label === record.label ? record.raw_score : record.score;
  setText($("announced"), record.counts ? label : `${label}, ${percent(score)}`);
}

// ---- charts

function context(canvas) {
  const width = canvas.clientWidth, height = +canvas.getAttribute("data-h") || canvas.height;
  canvas.dataset.h = height;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const c = canvas.getContext("2d");
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.clearRect(0, 0, width, height);
  c.font = "600 12px system-ui, sans-serif";
  return [c, width, height];
}

function drawTimeline() {
  const [c, width, height] = context($("timeline"));
  const now = Date.now(), from = now - HISTORY_S * 1000, x = (at) => ((at - from) / (HISTORY_S * 1000)) * width;
  const changes = shown ? shown.changes : [], base = height - 16;
  c.textBaseline = "middle";
  c.fillStyle = colour("--soft");
  c.beginPath();
  c.roundRect(0, 0, width, base, 6);
  c.fill();
  changes.forEach(({ at, label }, number) => {
    const until = number + 1 < changes.length ? changes[number + 1].at : now;
    if (until < from || !label) return;
    const left = Math.max(0, x(at)), length = x(until) - left;
    const objects = /^\d+ (.+?)(, \d+ |$)/.exec(shown.prediction && shown.prediction.counts ? label : "");
    c.fillStyle = objects ? classColour(objects[1]) : colour(hue(label));
    c.beginPath();
    c.roundRect(left, 0, Math.max(1, length - 1), base, Math.min(4, length / 2));
    c.fill();
    if (c.measureText(label).width + 10 < length) {
      c.fillStyle = objects ? "#14161a" : colour("--card");
      c.fillText(label, left + 6, base / 2);
    }
  });
  c.fillStyle = colour("--muted");
  c.font = "11px system-ui, sans-serif";
  for (const ago of width > 500 ? [120, 90, 60, 30, 0] : [120, 60, 0]) {
    c.textAlign = ago === 120 ? "left" : ago ? "center" : "right";
    c.fillText(ago ? `${ago} s ago` : "now", x(now - ago * 1000), height - 5);
  }
  c.textAlign = "left";
}

function listChanges() {
  const changes = shown ? shown.changes.filter((change) => change.label).slice(-6).reverse() : [];
  const content = changes.map((change) => `${change.at}${change.label}`).join();
  if ($("changes").dataset.content === content) return;
  $("changes").dataset.content = content;
  $("changes").replaceChildren(...changes.map(({ at, label }) => {
    const item = make("li", `${new Date(at).toLocaleTimeString()} `);
    item.append(make("b", label));
    return item;
  }));
  $("timeline").setAttribute("aria-label", `Labels over time; latest: ${changes.map((change) => change.label).join(", ") || "none"}`);
}

function drawSpeed() {
  const [c, width, height] = context($("speed"));
  if (!shown || !shown.status || !shown.speeds.length) return;
  const target = shown.status.figures.target_fps, points = shown.speeds, now = Date.now();
  const top = Math.max(target * 1.25, ...points.map((point) => Math.max(point[1], point[2]) * 1.1));
  const x = (at) => width - ((now - at) / (SPEED_S * 1000)) * width, y = (fps) => height - 1 - (fps / top) * (height - 4);
  const line = (which, style, thick) => {
    c.beginPath();
    points.forEach((point, number) => c[number ? "lineTo" : "moveTo"](x(point[0]), y(point[which])));
    c.strokeStyle = style;
    c.lineWidth = thick;
    c.stroke();
  };
  c.strokeStyle = colour("--muted");
  c.lineWidth = 1;
  c.setLineDash([4, 4]);
  c.beginPath();
  c.moveTo(0, y(target));
  c.lineTo(width, y(target));
  c.stroke();
  c.setLineDash([]);
  c.fillStyle = colour("--muted");
  c.font = "11px system-ui, sans-serif";
  c.fillText(`target ${target}`, 2, y(target) - 5);
  line(2, colour("--line"), 3);
  line(1, colour("--accent"), 2);
  const low = Math.min(...points.map((point) => point[1]));
  $("speed").setAttribute("aria-label", `Predictions per second over two minutes: now ${points[points.length - 1][1].toFixed(1)}, lowest ${low.toFixed(1)}, target ${target}`);
}

// ---- the region

function placeRegion() {
  const box = $("region").style;
  [box.left, box.top, box.width, box.height] = region.map((value) => `${100 * value}%`);
  const inputs = ["rx", "ry", "rw", "rh"];
  inputs.forEach((id, number) => {
    if (document.activeElement !== $(id)) $(id).value = Math.round(100 * region[number]);
  });
}

function startEdit() {
  closePlaces();
  region = (shown.status && shown.status.roi) || [0, 0, 1, 1];
  $("stage").classList.add("editing");
  $("edit").setAttribute("aria-pressed", "true");
  $("editor").hidden = $("region").hidden = false;
  setText($("advice"), "Drag over the image to choose the region that the model sees.");
  placeRegion();
}

function endEdit() {
  region = null;
  $("stage").classList.remove("editing");
  $("edit").setAttribute("aria-pressed", "false");
  $("editor").hidden = $("region").hidden = true;
}

function span(a, b) {
  const [x0, x1] = [Math.min(a[0], b[0]), Math.max(a[0], b[0])], [y0, y1] = [Math.min(a[1], b[1]), Math.max(a[1], b[1])];
  return [x0, y0, Math.max(0.02, x1 - x0), Math.max(0.02, y1 - y0)];
}

function inside([x, y, w, h]) {
  [w, h] = [clamp(w, 0.02, 1), clamp(h, 0.02, 1)];
  return [clamp(x, 0, 1 - w), clamp(y, 0, 1 - h), w, h];
}

$("stage").addEventListener("pointerdown", (event) => {
  if (draft && !event.button) {
    event.preventDefault();
    drawPlace(event);
    return;
  }
  if (!region || event.button) return;
  event.preventDefault();
  const frame = pictureRect();
  const at = (e) => [clamp((e.clientX - frame.left) / frame.width, 0, 1), clamp((e.clientY - frame.top) / frame.height, 0, 1)];
  const start = at(event), [x, y, w, h] = region, corner = event.target.dataset.corner;
  const fixed = corner && [corner.includes("w") ? x + w : x, corner.includes("n") ? y + h : y];
  const whole = w > 0.98 && h > 0.98;
  const moves = !whole && event.target === $("region");
  const follow = (e) => {
    const now = at(e);
    region = inside(moves ? [x + now[0] - start[0], y + now[1] - start[1], w, h] : span(fixed || start, now));
    placeRegion();
  };
  const end = () => {
    removeEventListener("pointermove", follow);
    removeEventListener("pointerup", end);
    removeEventListener("pointercancel", end);
  };
  addEventListener("pointermove", follow);
  addEventListener("pointerup", end);
  addEventListener("pointercancel", end);
});

$("region").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-0.01, 0], ArrowRight: [0.01, 0], ArrowUp: [0, -0.01], ArrowDown: [0, 0.01] }[event.key];
  if (!step) return;
  event.preventDefault();
  const [x, y, w, h] = region;
  region = inside(event.shiftKey ? [x, y, Math.min(w + step[0], 1 - x), Math.min(h + step[1], 1 - y)] : [x + step[0], y + step[1], w, h]);
  placeRegion();
});

for (const id of ["rx", "ry", "rw", "rh"]) {
  $(id).onchange = () => {
    const [x, y, w, h] = ["rx", "ry", "rw", "rh"].map((other) => (+$(other).value || 0) / 100);
    region = [clamp(x, 0, 0.98), clamp(y, 0, 0.98), 0, 0];
    region[2] = clamp(w, 0.02, 1 - region[0]);
    region[3] = clamp(h, 0.02, 1 - region[1]);
    placeRegion();
  };
}

async function saveRegion(roi) {
  const result = await sendCommand("roi", { roi }, $("save"));
  if (!result) return;
  endEdit();
  $("edit").focus();
  toast(result.kept ? (roi ? "Region saved." : "The model sees the whole image.") : `Used until the next start: ${result.why}.`);
}

$("editor").onsubmit = (event) => {
  event.preventDefault();
  const whole = region[2] > 0.995 && region[3] > 0.995;
  saveRegion(whole ? null : region.map((value) => +value.toFixed(4)));
};
$("whole").onclick = () => saveRegion(null);
$("cancel").onclick = () => {
  endEdit();
  $("edit").focus();
};

// ---- zones and counting lines

let draft = null; // {kind, was, points} of the zone or line that is edited, else null
const LIMITS = { zone: [3, 64], line: [2, 2] };

function placesOf(kind) {
  return (shown && shown.status && shown.status[`${kind}s`]) || [];
}

function openPlaces() {
  endEdit();
  $("places").hidden = false;
  $("edit-places").setAttribute("aria-pressed", "true");
  listPlaces();
}

function closePlaces() {
  endDraft();
  $("places").hidden = true;
  $("edit-places").setAttribute("aria-pressed", "false");
}

function listPlaces() {
  if ($("places").hidden) return;
  const found = [...placesOf("zone").map((place) => ["zone", place]), ...placesOf("line").map((place) => ["line", place])];
  const content = JSON.stringify([found, draft && [draft.kind, draft.was]]);
  if ($("places-list").dataset.content === content) return;
  $("places-list").dataset.content = content;
  $("places-list").replaceChildren(...found.map(([kind, place]) => {
    const button = make("button", `${place.name} (${kind})`);
    button.type = "button";
    button.setAttribute("aria-pressed", Boolean(draft && draft.kind === kind && draft.was === place.name));
    button.onclick = () => startDraft(kind, place);
    return button;
  }));
}

function freeName(kind) {
  const taken = placesOf(kind).map((place) => place.name);
  let number = 1;
  while (taken.includes(`${kind}${number}`)) number += 1;
  return `${kind}${number}`;
}

function startDraft(kind, place) {
  draft = { kind, was: place ? place.name : "", points: place ? place.points.map((point) => [...point]) : [] };
  $("stage").classList.add("editing");
  $("place").hidden = $("corners").hidden = false;
  $("drawn").removeAttribute("hidden");
  $("place-name").value = place ? place.name : freeName(kind);
  $("place-delete").hidden = !place;
  $("place-undo").hidden = kind === "line";
  $("place-turn").hidden = kind === "zone";
  setText($("place-points").previousSibling, kind === "zone" ? "Corners % " : "From, to % ");
  setText($("places-advice"), kind === "zone" ? "Tap the corners of the zone one after the other, or drag to draw a rectangle. Drag a corner to move it." : "Drag from one end of the line to the other. What crosses it to the side of “in” goes in.");
  drawDraft();
  listPlaces();
}

function endDraft() {
  draft = null;
  $("stage").classList.remove("editing");
  $("place").hidden = $("corners").hidden = true;
  // Elements of SVG have no such property.
  $("drawn").setAttribute("hidden", "");
  setText($("places-advice"), "Objects are counted in zones, and as they cross lines.");
  listPlaces();
}

function drawDraft() {
  const { kind, points } = draft, closed = kind === "zone" && points.length > 2;
  const path = (closed ? [...points, points[0]] : points).map((point) => point.join()).join(" ");
  for (const line of $("drawn").children) line.setAttribute("points", path);
  $("drawn").classList.toggle("closed", closed);
  const corners = $("corners");
  while (corners.children.length > points.length) corners.lastChild.remove();
  while (corners.children.length < points.length) corners.append(make("i"));
  points.forEach(([x, y], number) => {
    const corner = corners.children[number];
    corner.className = "";
    corner.dataset.point = number;
    [corner.style.left, corner.style.top] = [`${100 * x}%`, `${100 * y}%`];
  });
  if (kind === "line" && points.length === 2) drawInward(points);
  if (document.activeElement !== $("place-points")) $("place-points").value = points.map((point) => point.map((value) => +(100 * value).toFixed(1)).join()).join("  ");
}

// Shows to which side of the line "in" is: to the right, seen from its start to its end.
function drawInward([start, end]) {
  const picture = pictureRect(), sign = make("i", "", "inward");
  const [dx, dy] = [(end[0] - start[0]) * picture.width, (end[1] - start[1]) * picture.height];
  const length = Math.hypot(dx, dy) || 1, away = 26;
  sign.style.left = `${100 * ((start[0] + end[0]) / 2 - ((dy / length) * away) / picture.width)}%`;
  sign.style.top = `${100 * ((start[1] + end[1]) / 2 + ((dx / length) * away) / picture.height)}%`;
  $("corners").append(sign);
}

$("place-points").oninput = () => {
  const numbers = $("place-points").value.split(/[\s,;]+/).filter(Boolean).map((text) => clamp(+text / 100 || 0, 0, 1));
  draft.points = numbers.slice(0, 2 * LIMITS[draft.kind][1]).flatMap((x, at) => (at % 2 || at + 1 >= numbers.length ? [] : [[x, numbers[at + 1]]]));
  drawDraft();
};

function drawPlace(event) {
  const picture = pictureRect();
  const at = (e) => [clamp((e.clientX - picture.left) / picture.width, 0, 1), clamp((e.clientY - picture.top) / picture.height, 0, 1)];
  const before = draft.points.map((point) => [...point]), start = at(event), held = event.target.dataset.point;
  const isFar = (e) => Math.hypot(e.clientX - event.clientX, e.clientY - event.clientY) > 12;
  let drags = held !== undefined;
  const follow = (e) => {
    drags ||= isFar(e);
    if (!drags || !draft) return;
    const now = at(e);
    if (held !== undefined) draft.points[held] = now;
    else if (draft.kind === "line") draft.points = [start, now];
    else if (before.length === 0) draft.points = [start, [now[0], start[1]], now, [start[0], now[1]]];
    else return;
    drawDraft();
  };
  const end = () => {
    removeEventListener("pointermove", follow);
    removeEventListener("pointerup", end);
    removeEventListener("pointercancel", end);
    if (!draft) return;
    if (!drags && draft.points.length < LIMITS[draft.kind][1]) draft.points = [...before, start];
    drawDraft();
  };
  addEventListener("pointermove", follow);
  addEventListener("pointerup", end);
  addEventListener("pointercancel", end);
}

async function sendPlace(points, button) {
  const body = { name: points ? $("place-name").value.trim() : draft.was, points, ...(draft.was ? { was: draft.was } : {}) };
  const sent = draft, kind = draft.kind, result = await sendCommand(kind, body, button);
  if (!result) return;
  // Another one may be edited by now.
  if (draft === sent) endDraft();
  const done = `${kind} ${body.name} ${points ? "saved" : "deleted"}`;
  toast(result.kept ? `${done}.` : `${done}, until the next start: ${result.why}.`);
}

$("places").onsubmit = (event) => {
  event.preventDefault();
  if (!draft) return;
  if (draft.points.length < LIMITS[draft.kind][0]) toast(draft.kind === "zone" ? "A zone has at least three corners." : "Draw the line first.", true);
  else sendPlace(draft.points.map((point) => point.map((value) => +value.toFixed(4))), $("place-save"));
};
$("new-zone").onclick = () => startDraft("zone");
$("new-line").onclick = () => startDraft("line");
$("place-delete").onclick = () => sendPlace(null, $("place-delete"));
$("place-cancel").onclick = endDraft;
$("places-close").onclick = () => {
  closePlaces();
  $("edit-places").focus();
};
$("place-undo").onclick = () => {
  draft.points.pop();
  drawDraft();
};
$("place-turn").onclick = () => {
  draft.points.reverse();
  drawDraft();
};

// ---- buttons and keys

$("edit-places").onclick = () => ($("places").hidden ? openPlaces() : closePlaces());

$("edit").onclick = () => (region ? endEdit() : startEdit());
$("pause").onclick = () => sendCommand($("pause").getAttribute("aria-pressed") === "true" ? "resume" : "pause", {}, $("pause"));
$("snapshot").onclick = () => sendCommand("snapshot", {}, $("snapshot"));
$("statistics").onclick = async () => {
  const result = await sendCommand("hud", { shown: $("statistics").getAttribute("aria-pressed") !== "true" }, $("statistics"));
  if (result) $("statistics").setAttribute("aria-pressed", result.shown);
};
// `camapp collect`: a button for each label, and number keys; the snapshot button and space save an image.
function showLabels({ label, collected }) {
  $("labels").hidden = !collected;
  $("model").parentElement.hidden = Boolean(collected);
  if (!collected) return;
  const names = Object.keys(collected);
  setText($("snapshot").lastChild, `Save ${label}`);
  if ($("labels").children.length !== names.length) {
    $("labels").replaceChildren(...names.map((name) => {
      const button = document.createElement("button");
      button.onclick = () => sendCommand("label", { label: name }, button);
      return button;
    }));
    setText($("keys"), `Keys: 1 to 9 choose a label, space saves an image. ${$("keys").textContent}`);
  }
  names.forEach((name, index) => {
    const button = $("labels").children[index];
    setText(button, `${index + 1} ${name}: ${collected[name]}`);
    button.setAttribute("aria-pressed", name === label);
  });
}

$("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen?.());
$("model").onchange = async () => {
  toast(`Loading ${$("model").value} …`);
  const result = await sendCommand("model", { model: $("model").value }, $("model"));
  if (result) toast(`${result.model} runs now.`);
};
$("stage").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const button = { p: "pause", s: "snapshot", r: "edit", z: "edit-places", h: "statistics", f: "full" }[event.key];
  if (button && !$(button).hidden) $(button).click();
});
addEventListener("keydown", (event) => {
  if (!$("labels").hidden && !event.ctrlKey && !event.altKey && !event.metaKey && !event.target.matches("input, select")) {
    $("labels").children[event.key - 1]?.click();
    // Space saves even if a label was chosen by its button just before; other buttons keep it.
    if (event.key === " " && !event.target.matches("button:not(#labels button, #snapshot), a")) {
      event.preventDefault();
      if (!event.repeat) $("snapshot").click();
    }
  }
  if (event.key === "?" && !event.target.matches("input, select")) $("keys").classList.toggle("visually-hidden");
  if (event.key === "Escape" && region) $("cancel").click();
  if (event.key === "Escape" && !$("places").hidden) (draft ? endDraft : closePlaces)();
});

// ---- start

let drawnAt = 0;
function draw(now) {
  requestAnimationFrame(draw);
  if (now - drawnAt < (reducedMotion.matches ? 1000 : 100)) return;
  drawnAt = now;
  showPrediction();
  drawTimeline();
  listChanges();
  drawSpeed();
  announce();
}
requestAnimationFrame(draw);
setInterval(refreshTiles, 1000);
connect();
