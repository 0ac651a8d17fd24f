// The page submits a picture once, and then only listens: relay calls the application, the application tells the page.
const page = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
const [form, drop, file, jobs] = ["form", "drop", "file", "jobs"].map((id) => document.getElementById(id));

// A video may arrive before the answer to its picture.
const early = new Map();

new EventSource(`news/${page}`).onmessage = ({ data }) => {
  const news = JSON.parse(data);
  const item = document.getElementById(news.job);
  if (item) show(item, news);
  else early.set(news.job, news);
};

function show(item, { status, video }) {
  item.firstChild.textContent = status;
  if (video) item.append(Object.assign(document.createElement("video"), { src: video, controls: true, muted: true, autoplay: true, loop: true }));
}

async function send(picture) {
  const fields = new FormData(form);
  fields.set("picture", picture);
  fields.set("page", page);
  const item = document.createElement("li");
  item.append(Object.assign(document.createElement("p"), { textContent: "uploading" }));
  jobs.prepend(item);
  const response = await fetch("pictures", { method: "POST", body: fields });
  const { job, error } = await response.json();
  item.id = job ?? "";
  item.firstChild.textContent = error ?? "the video is being made";
  if (early.has(job)) show(item, early.get(job));
}

file.onchange = () => file.files[0] && send(file.files[0]);
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
};
