// Browsers refuse workers to pages that are opened as files. A hidden frame does their work, so
// that the search works there too.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script>
        window.postMessage = data => parent.dispatchEvent(new MessageEvent("frame", {data}));
        window.importScripts = (...urls) => Promise.all(urls.map(url => new Promise(done => {
          const script = document.createElement("script");
          script.onload = done;
          script.src = url;
          document.head.append(script);
        })));
      </script><script src="${url}"></script>`;
      addEventListener("frame", ({ data }) => this.dispatchEvent(new MessageEvent("message", { data })));
      this.frame = new Promise(done => { frame.onload = () => done(frame.contentWindow); });
      document.documentElement.append(frame);
    }

    async postMessage(data) {
      (await this.frame).dispatchEvent(new MessageEvent("message", { data }));
    }
  };
}
