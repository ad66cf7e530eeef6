// Comfort for those who let scripts run; the page works without it.
// One recording plays at a time, times of a transcript seek in place, what is being said is marked.
"use strict";

document.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio, video")) {
        if (other !== event.target) other.pause();
    }
}, true);  // while it goes down, because it does not bubble

const player = document.querySelector(".follow audio, .follow video");
const segments = [...document.querySelectorAll("[data-start]")];
let marked = document.querySelector(".playing");

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
