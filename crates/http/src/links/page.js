const words = JSON.parse(document.getElementById("words").textContent);
const at = (id) => document.getElementById(id);
const node = (name, text) => Object.assign(document.createElement(name), { textContent: text });
const time = (iso) => Object.assign(node("time", new Date(iso).toLocaleString(document.documentElement.lang)), { dateTime: iso });
function show(order) {
  at("status").textContent = order.status;
  at("failed").hidden = !order.failed;
  at("history").replaceChildren(...order.history.map((moment) => {
    const row = node("li", "");
    row.append(time(moment.at), " ", node("strong", moment.status ?? words.failed));
    if (moment.reason) row.append(": ", moment.reason);
    return row;
  }));
}
for (const one of document.querySelectorAll("time")) one.replaceWith(time(one.dateTime));
const news = new EventSource(location.pathname);
news.onmessage = (message) => show(JSON.parse(message.data));
