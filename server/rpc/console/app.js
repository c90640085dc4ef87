// The console: what the contract says, drawn every two seconds. It asks the node that it came from, changes nothing, and keeps the last picture when nobody answers.

const EVERY = 2000;
const SLOW_EVERY = 5; // Snapshots, schedules and operations are asked for at every so many looks.
const SNAPSHOTS_SHOWN = 20;

// ---- Asking. ----

const question = (service, method, body = {}) => ask(`/devicedb.v1.${service}/${method}`, {
  method: "POST",
  headers: { "content-type": "application/json", "connect-timeout-ms": "5000" },
  body: JSON.stringify(body),
}).then((answer) => answer.json());

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(8000) });
  if (answer.ok) return answer;
  const told = await answer.text();
  let why = told;
  try { why = JSON.parse(told).message; } catch { /* A page, not a document. */ }
  throw Object.assign(new Error(why.trim() || answer.statusText), { stranger: answer.status === 401 || answer.status === 403 });
}

// As the leader has it; where there is none, as this node does.
async function withOrWithoutLeader(service, method, body = {}) {
  try {
    return await question(service, method, body);
  } catch (e) {
    if (e.stranger) throw e;
    return { ...await question(service, method, { ...body, local: true }), old: e.message };
  }
}

// ---- Drawing. ----

const $ = (id) => document.getElementById(id);

function element(name, of = {}, ...inside) {
  const made = document.createElementNS(of.svg ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", name);
  for (const [key, value] of Object.entries(of)) if (key !== "svg") made.setAttribute(key, value);
  made.append(...inside.filter((one) => one !== undefined && one !== ""));
  return made;
}

const words = (text, kind = "") => element("span", kind ? { class: kind } : {}, text);

// Cells are texts, numbers or elements; numbers stand to the right.
function table(heads, rows, nothing) {
  if (rows.length === 0) return element("p", { class: "dim" }, nothing);
  const numeric = heads.map((_, at) => rows.every((row) => typeof row[at] === "number"));
  const cell = (name) => (value, at) => element(name, numeric[at] ? { class: "number" } : {}, typeof value === "number" ? value.toLocaleString("en") : value ?? "");
  return element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head, at) => { const made = cell("th")(head, at); made.setAttribute("scope", "col"); return made; }))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell("td"))))));
}

const draw = (id, ...what) => $(id).replaceChildren(...what);

function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

function size(bytes) {
  let [value, at] = [Number(bytes ?? 0), 0];
  while (value >= 1024 && at < 4) [value, at] = [value / 1024, at + 1];
  return `${at ? value.toFixed(1) : value} ${["B", "KiB", "MiB", "GiB", "TiB"][at]}`;
}

const counted = (count, what) => `${Number(count ?? 0).toLocaleString("en")} ${what}${Number(count ?? 0) === 1 ? "" : "s"}`;
const ago = (ms) => Number(ms) ? element("span", { title: new Date(Number(ms)).toISOString() }, `${span(Date.now() - Number(ms))} ago`) : "never";
const lower = (name, prefix) => (name ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");

// ---- What works, and what one more loss would mean. ----

export function outlook(seen) {
  const nodes = seen.nodes ?? [], sets = seen.voterSets ?? [];
  const there = new Set(nodes.filter((node) => node.reachable).map((node) => node.id));
  const holds = (set, without) => {
    const voters = set.voters ?? [];
    return voters.filter((voter) => there.has(voter) && voter !== without).length >= Math.floor(voters.length / 2) + 1;
  };
  const count = (of) => sets.filter((set) => !set.meta).reduce((sum, set) => sum + of(set), 0);
  const all = count((set) => set.groups ?? 0);
  const working = count((set) => holds(set) ? set.groupsLed ?? 0 : 0);
  const metaSet = sets.find((set) => set.meta), meta = Boolean(metaSet && holds(metaSet) && metaSet.groupsLed);
  const lines = [];
  if (sets.length === 0) return { state: "bad", lines: ["It is not known which groups work."] };
  lines.push(working === all ? `All ${all} groups take reads and writes.` : `${working} of ${all} groups take reads and writes.`);
  if (!meta) lines.push("The meta group does not work: no node, site, relay or snapshot can be added or removed.");
  const losses = [...there].map((node) => ({ node, stops: count((set) => holds(set) && !holds(set, node) ? set.groups : 0), meta: metaSet && holds(metaSet) && !holds(metaSet, node) }));
  const worst = losses.filter((loss) => loss.stops > 0 || loss.meta).sort((a, b) => b.stops - a.stops);
  const at = (id) => nodes.find((node) => node.id === id)?.address ?? id;
  if (worst.length === 0) lines.push("The loss of one more node, whichever, would stop nothing.");
  else if (worst.length === there.size) lines.push(`The loss of one more node, whichever, would stop up to ${counted(worst[0].stops, "group")}.`);
  else lines.push(`The loss of ${worst.map((loss) => at(loss.node)).join(" or ")} would stop up to ${counted(worst[0].stops, "group")}.`);
  const lacking = (seen.groupsUnderReplicated ?? 0) + (seen.metaUnderReplicated ? 1 : 0);
  if (lacking > 0) lines.push(`${lacking} groups have fewer voters that answer than they should.`);
  const silent = nodes.filter((node) => !node.reachable);
  if (silent.length > 0) lines.push(`${silent.map((node) => node.address).join(", ")} ${silent.length > 1 ? "do" : "does"} not answer.`);
  const state = working < all || !meta ? "bad" : worst.length > 0 || lacking > 0 || silent.length > 0 ? "doubt" : "good";
  return { state, lines };
}

function drawCluster(seen) {
  const { state, lines } = outlook(seen);
  draw("outlook", ...lines.map((line, at) => element("p", at === 0 ? { class: state } : {}, line)), seen.old ? element("p", { class: "bad" }, `As this node knows it by itself, which may be old: ${seen.old}`) : "");
  draw("cluster", element("span", { class: "id", title: seen.clusterId ?? "" }, (seen.clusterId ?? "").slice(0, 8)), ` · ${counted((seen.nodes ?? []).length, "node")} · ${counted(seen.sites, "site")} · ${counted(seen.partitions, "partition")}, ${seen.replicationFactor} of each`);
  document.title = `${state === "good" ? "" : state === "bad" ? "✗ " : "! "}DeviceDB ${(seen.clusterId ?? "").slice(0, 8)}`;
  const state_of = (node) => !node.reachable ? words("unreachable", "bad") : !node.ready ? words("not ready", "bad") : node.leaving ? words("leaving", "doubt") : node.draining ? words("drained", "doubt") : words("ready", "good");
  draw("nodes", table(["address", "state", "holds groups", "leads", "share %", "snapshots", "version", "id", "why"],
    (seen.nodes ?? []).map((node) => [node.address, state_of(node), node.groupsWanted ?? 0, node.groupsLed ?? 0, node.capacityPercent ?? 0, node.snapshotStore ? "yes" : "no", node.version ?? "", element("span", { class: "id" }, node.id), node.reason ?? ""]), "no nodes"));
  const addresses = new Map((seen.nodes ?? []).map((node) => [node.id, node]));
  const voter = (id) => words(addresses.get(id)?.address ?? id, addresses.get(id)?.reachable ? "" : "bad");
  draw("groups", table(["voters", "groups", "led", "copies that answer"],
    (seen.voterSets ?? []).map((set) => [element("span", {}, ...(set.voters ?? []).flatMap((id, at) => at ? [", ", voter(id)] : [voter(id)]), set.meta ? words(" — the meta group", "dim") : ""), set.groups ?? 0, set.groupsLed ?? 0, (set.voters ?? []).filter((id) => addresses.get(id)?.reachable).length]), "no groups"));
}

// ---- Operations, backups, snapshots. ----

function drawOperations({ operations = [] }) {
  draw("operations", table(["what", "state", "node", "replicas", "left", "why it waits", "began"], operations.slice(0, 10).map((one) => {
    const running = one.state === "OPERATION_STATE_RUNNING";
    const waits = (one.waits ?? []).map((wait) => wait.text ?? lower(wait.reason, "WAIT_REASON_"));
    return [lower(one.kind, "OPERATION_KIND_"), words(lower(one.state, "OPERATION_STATE_"), running ? "doubt" : ""), one.nodeId && one.nodeId !== "0" ? element("span", { class: "id" }, one.nodeId) : "all",
      `${one.replicasDone ?? 0} of ${one.replicasTotal ?? 0}`, running && Number(one.bytesLeft) ? `${size(one.bytesLeft)}, ${span((one.etaS ?? 0) * 1000)}` : "", [...new Set(waits)].slice(0, 3).join("; "), ago(one.beganMs)];
  }), "nothing was asked of the nodes as a whole"));
}

function drawBackups({ schedules = [], repositories = [], verification, drill, unreadableReports = [] }) {
  const lines = [];
  if (repositories.length > 0) lines.push(element("p", {}, "They go to ", element("code", {}, repositories.join(", ")), "."));
  if (verification) lines.push(element("p", { class: verification.sound ? "good" : "bad" }, `Verified (${lower(verification.depth, "VERIFICATION_DEPTH_")}): ${verification.sound ? "sound" : counted(verification.problems, "problem")}, `, ago(verification.beganMs), `; ${counted(verification.snapshotsSince, "snapshot")} since then.`));
  else if (repositories.length > 0) lines.push(element("p", { class: "doubt" }, "Nobody has verified them."));
  if (drill) lines.push(element("p", { class: drill.passed ? "good" : "bad" }, `Rehearsed: ${drill.passed ? `restored in ${span(Number(drill.rtoMs ?? 0))}` : drill.problem}, `, ago(drill.beganMs), "."));
  else if (repositories.length > 0) lines.push(element("p", { class: "doubt" }, "Nobody has rehearsed a restore."));
  for (const report of unreadableReports) lines.push(element("p", { class: "bad" }, report));
  draw("backups", ...lines, table(["schedule", "when", "last good", "last failure", "next", "note"], schedules.map((one) => [
    one.name, element("code", {}, one.cron ?? ""), one.stored ? ago(one.stored.endedMs) : words("never", "doubt"),
    one.failed ? element("span", { class: (one.failures ?? 0) > 0 ? "bad" : "" }, ago(one.failed.endedMs), `: ${one.failed.reason ?? ""}`) : "", one.paused ? words("paused", "doubt") : Number(one.nextMs) ? `in ${span(Number(one.nextMs) - Date.now())}` : "",
    [one.note, one.running ? "running" : "", one.verify ? `verifies ${one.verify}` : one.keep ? `keeps ${one.keep}` : ""].filter(Boolean).join("; ")]),
    repositories.length > 0 ? "no schedule" : "no schedule, and no repository that snapshots could be stored in"));
}

const KINDS = { COMPLETED: "good", PROCESSING: "doubt", DELETING: "dim" };
const kind = (status) => KINDS[(status ?? "").replace("SNAPSHOT_STATUS_", "")] ?? "bad";

function drawSnapshots({ snapshots = [] }) {
  const shown = snapshots.slice(0, SNAPSHOTS_SHOWN);
  const times = shown.map((one) => Number(one.createdMs ?? 0));
  const [from, to] = [Math.min(...times), Date.now()];
  draw("line", shown.length === 0 ? "" : element("svg", { svg: true, viewBox: "0 0 1000 56", preserveAspectRatio: "none", role: "img", "aria-label": `${shown.length} snapshots since ${new Date(from).toISOString()}` },
    element("line", { svg: true, class: "axis", x1: 10, x2: 990, y1: 24, y2: 24 }),
    ...shown.map((one, at) => element("circle", { svg: true, class: kind(one.status), cx: 10 + 980 * (times[at] - from) / Math.max(1, to - from), cy: 24, r: 6 }, element("title", { svg: true }, `${one.uuid} ${lower(one.status, "SNAPSHOT_STATUS_")}`))),
    element("text", { svg: true, x: 10, y: 50 }, `${span(to - from)} ago`), element("text", { svg: true, x: 990, y: 50, "text-anchor": "end" }, "now")));
  draw("snapshots", table(["snapshot", "status", "parts", "copies of each partition", "rows", "taken", "why"], shown.map((one) => {
    const parts = one.parts ?? [], done = parts.filter((part) => part.status === "SNAPSHOT_STATUS_COMPLETED");
    return [element("span", { class: "id" }, one.uuid), words(lower(one.status, "SNAPSHOT_STATUS_"), kind(one.status)), `${done.length} of ${parts.length}`, one.copiesMin ?? 0,
      done.reduce((sum, part) => Math.max(sum, Number(part.rows ?? 0)), 0), ago(one.createdMs), [one.reason, ...parts.map((part) => part.reason ? `${part.address}: ${part.reason}` : "")].filter(Boolean).join("; ")];
  }), "no snapshot yet"));
}

// ---- Calls a second, and how long they take, from two looks at /metrics. ----

let before;

export function histograms(text) {
  const methods = new Map();
  for (const line of text.split("\n")) {
    const found = /^devicedb_request_duration_seconds_(bucket|count)\{(.*)\} ([0-9.e+-]+)/.exec(line);
    if (!found) continue;
    const method = /method="([^"]*)"/.exec(found[2])?.[1] ?? "";
    const one = methods.get(method) ?? { count: 0, buckets: [] };
    if (found[1] === "count") one.count = Number(found[3]);
    else one.buckets.push([Number(/le="([^"]*)"/.exec(found[2])?.[1].replace("+Inf", "Infinity")), Number(found[3])]);
    methods.set(method, one);
  }
  return methods;
}

// The upper bound of the bucket in which that share of what has come since lies.
export function quantile(now, then, share) {
  const counts = now.buckets.map(([bound, count], at) => [bound, count - (then?.buckets[at]?.[1] ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  return all === 0 ? undefined : counts.find(([, count]) => count >= share * all)?.[0];
}

function drawRates(text) {
  const now = { at: performance.now(), methods: histograms(text) };
  if (before) {
    const seconds = (now.at - before.at) / 1000;
    const within = (bound) => bound === undefined ? "" : bound === Infinity ? "longer" : `≤ ${(bound * 1000).toLocaleString("en")} ms`;
    const rows = [...now.methods].map(([method, one]) => {
      const then = before.methods.get(method);
      return { method, rate: (one.count - (then?.count ?? 0)) / seconds, p50: quantile(one, then, 0.5), p99: quantile(one, then, 0.99) };
    }).filter((row) => row.rate > 0).sort((a, b) => b.rate - a.rate);
    draw("rates", table(["method", "calls a second", "half of them take", "99 of 100 take"], rows.map((row) => [row.method, Math.round(row.rate * 10) / 10, within(row.p50), within(row.p99)]), "nobody calls"));
  }
  before = now;
}

// ---- Looking again and again. ----

let looks = 0, paused = false, seenAt = 0, timer;

async function look() {
  clearTimeout(timer);
  try {
    const slow = looks % SLOW_EVERY === 0;
    const [cluster, metrics, ...rest] = await Promise.all([
      withOrWithoutLeader("ClusterService", "GetOverview"), ask("/metrics").then((answer) => answer.text()),
      ...(slow ? [question("OperationService", "ListOperations", { pageSize: 10 }).catch(() => undefined), question("ScheduleService", "ListSchedules").catch(() => undefined), withOrWithoutLeader("SnapshotService", "ListSnapshots", { pageSize: SNAPSHOTS_SHOWN }).catch(() => undefined)] : [])]);
    drawCluster(cluster);
    drawRates(metrics);
    [drawOperations, drawBackups, drawSnapshots].forEach((drawn, at) => rest[at] && drawn(rest[at]));
    looks += 1;
    seenAt = Date.now();
    $("door").hidden = true;
    document.body.classList.remove("old");
    $("seen").textContent = paused ? "paused" : "live";
  } catch (e) {
    if (e.stranger) {
      sessionStorage.removeItem("token");
      $("door").hidden = false;
    }
    document.body.classList.add("old");
    $("seen").textContent = `${seenAt ? `as it was ${span(Date.now() - seenAt)} ago` : "nothing seen yet"}: ${e.message}`;
  }
  if (!paused) timer = setTimeout(look, EVERY);
}

if (globalThis.document) {
  $("door").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", $("token").value.trim());
    $("token").value = "";
    looks = 0;
    look();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const parts = [...document.querySelectorAll("main section")];
    const at = parts.indexOf(document.activeElement);
    const go = (to) => { parts[to]?.setAttribute("tabindex", "-1"); parts[to]?.focus(); };
    if (event.key === "r") { looks = 0; look(); }
    if (event.key === "p") { paused = !paused; look(); }
    if (event.key === "j") go(Math.min(parts.length - 1, at + 1));
    if (event.key === "k") go(Math.max(0, at - 1));
  });
  look();
}
