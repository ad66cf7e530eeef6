// Comfort for those who let scripts run; the page works without it.
// One recording plays at a time, at the speed that was chosen, and skips ten seconds; times of a
// transcript seek in place, and what is being said is marked.
"use strict";

const tools = document.querySelector(".tools");
const speed = document.getElementById("speed");
const players = [...document.querySelectorAll("audio, video")];
const player = document.querySelector(".follow audio, .follow video");
const segments = [...document.querySelectorAll("[data-start]")];
let current = players[0];  // that which is played, or was
let marked = document.querySelector(".playing");

document.addEventListener("play", (event) => {
    current = event.target;
    tools?.classList.add("used");
    for (const other of players) {
        if (other !== current) other.pause();
    }
}, true);  // while it goes down, because it does not bubble

function setSpeed(value) {
    speed.value = value;
    for (const each of players) each.defaultPlaybackRate = each.playbackRate = Number(value);
    try {
        sessionStorage.setItem("speed", value);
    } catch { /* where nothing may be stored, it is for this page */ }
}

function skip(seconds) {
    const end = current.duration || 0;  // not known before something was loaded
    current.currentTime = Math.min(Math.max(current.currentTime + seconds, 0), end);
}

function press(event) {  // with Shift, because letters alone may be what somebody dictates
    const is_plain = event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!is_plain || event.target.closest("input, select, textarea")) return;
    const step = {ArrowDown: -1, ArrowUp: 1}[event.key];
    const seconds = {ArrowLeft: -10, ArrowRight: 10}[event.key];
    const next = speed.options[speed.selectedIndex + step];
    if (seconds) skip(seconds);
    else if (next) setSpeed(next.value);
    if (seconds || step) event.preventDefault();
}

if (tools && players.length) {
    tools.hidden = false;
    let stored = null;
    try {
        stored = sessionStorage.getItem("speed");
    } catch { /* as above */ }
    if ([...speed.options].some((each) => each.value === stored)) setSpeed(stored);
    speed.addEventListener("change", () => setSpeed(speed.value));
    for (const each of tools.querySelectorAll("[data-skip]")) {
        each.addEventListener("click", () => skip(Number(each.dataset.skip)));
    }
    document.addEventListener("keydown", press, true);  // before a player takes the key
}

function mark(segment) {
    if (segment === marked) return;
    marked?.classList.remove("playing");
    marked?.removeAttribute("aria-current");
    segment?.classList.add("playing");
    segment?.setAttribute("aria-current", "true");
    marked = segment;
}

function seek(event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;  // to a new tab
    event.preventDefault();
    const segment = event.currentTarget.closest("[data-start]");
    player.currentTime = segment.dataset.start;
    mark(segment);
    player.play().catch(() => {});  // which the player itself tells
}

if (player) {
    player.addEventListener("timeupdate", () => {
        // Players stop a little before the time that they were told.
        mark(segments.findLast((each) => each.dataset.start <= player.currentTime + 0.05) ?? null);
    });
    player.addEventListener("ended", () => mark(null));
    for (const segment of segments) segment.querySelector("a")?.addEventListener("click", seek);
}
