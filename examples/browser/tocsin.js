// A client for browsers and Node, without packages: many chats over one connection, resumed after every drop.
//
//   const tocsin = new Tocsin("wss://chat.example.com/dvl", () => fetchToken());
//   tocsin.onmessage = message => …; tocsin.ongap = ({ chatId, from, to }) => …
//   tocsin.listen("chat-abc123");
//   await tocsin.publish({ chatId: "chat-abc123", eventType: "chat", content: "Hello" });
//
// What it keeps for each chat is the highest number up to which it has everything; and the epoch of them all.

const FINAL_CODES = [4400, 4403];
const FIRST_PAUSE = 500, LONGEST_PAUSE = 30_000, MINUTE = 60_000;

export class Tocsin {
  // On AWS a silent connection ends after 10 minutes, and each after 2 hours: then all that began together end.
  static pingEach = 8 * MINUTE;
  static life = [90 * MINUTE, 115 * MINUTE];

  onmessage = () => {};
  ongap = () => {};
  onrevoked = () => {};
  onstate = () => {};

  #url; #getToken; #socket = null; #epoch = null; #tries = 0; #closed = false; #timer = null; #pinging = null;
  #last = new Map();      // chatId -> the last number, null before the first `subscribed`
  #waiting = new Map();   // requestId -> a publish without an answer

  constructor(url, getToken) {
    this.#url = url;
    this.#getToken = getToken;
    this.#connect();
  }

  listen(chatId, lastSequence = null) {
    if (this.#last.has(chatId)) return;
    this.#last.set(chatId, lastSequence);
    this.#send(this.#subscription([chatId]));
  }

  leave(chatId) {
    this.#last.delete(chatId);
    this.#send({ action: "unsubscribe", chatId });
  }

  // Resolves with the ack once the message is on disk. Without an answer it is sent again after the next connect, with
  // the same id: it stays one message.
  publish(payload, messageType = "fifo") {
    const requestId = crypto.randomUUID();
    const frame = { action: "sendMessage", requestId, messageType, messageDeduplicationId: requestId, payload };
    return new Promise((resolve, reject) => {
      this.#waiting.set(requestId, { frame, resolve, reject });
      this.#send(frame);
    });
  }

  close() {
    this.#closed = true;
    this.#stop();
    this.#socket?.close();
  }

  async #connect() {
    this.onstate("connecting");
    try {
      const token = await this.#getToken();
      // A subprotocol, because a page cannot set headers here, and URLs end up in logs.
      const socket = new WebSocket(this.#url, ["tocsin.v1", `bearer.${token}`]);
      this.#socket = socket;
      socket.onopen = () => {
        this.onstate("open");
        const [least, most] = Tocsin.life;
        this.#timer = setTimeout(() => socket.close(), least + Math.random() * (most - least));
        this.#pinging = setInterval(() => this.#send({ action: "ping" }), Tocsin.pingEach);
        if (this.#last.size) this.#send(this.#subscription([...this.#last.keys()]));
        for (const { frame } of this.#waiting.values()) this.#send(frame);
      };
      socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
      // Node 20 tells a connect that failed by `error` alone; where `close` follows, it is too late to count.
      socket.onclose = socket.onerror = ({ code = 1006, reason = "" }) => {
        if (this.#socket === socket) this.#dropped(code, reason);
      };
    } catch {
      this.#dropped(1006, "");
    }
  }

  #dropped(code, reason) {
    this.#socket = null;
    this.#stop();
    this.onstate("closed", code);
    if (this.#closed || FINAL_CODES.includes(code)) return;
    const asked = /^retryAfter=(\d+)$/.exec(reason);
    const chance = Math.random() * Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#tries++);
    this.#timer = setTimeout(() => this.#connect(), Math.max(asked ? +asked[1] : 0, chance));
  }

  #stop() {
    clearTimeout(this.#timer);
    clearInterval(this.#pinging);
  }

  #subscription(chatIds) {
    const chats = Object.fromEntries(chatIds.map(chatId => [chatId, this.#last.get(chatId)]));
    return this.#epoch === null ? { action: "sync", chats } : { action: "sync", chats, epoch: this.#epoch };
  }

  #send(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  async #take(frame) {
    switch (frame.type) {
      case "message": {
        const { chatId } = frame.payload, number = frame.sequenceNumber, last = this.#last.get(chatId);
        if (number !== undefined) {
          if (last != null && number <= last) return;
          this.#last.set(chatId, number);
        }
        return this.onmessage(frame);
      }
      case "subscribed":
        if (!this.#last.has(frame.chatId)) return;
        this.#tries = 0;
        this.#epoch = frame.epoch;
        this.#last.set(frame.chatId, frame.headSequence);
        return;
      case "gap":
        if (frame.to > (this.#last.get(frame.chatId) ?? 0)) this.#last.set(frame.chatId, frame.to);
        return this.ongap(frame);
      case "revoked":
        this.#last.delete(frame.chatId);
        return this.onrevoked(frame.chatId);
      case "tokenExpiring":
        return this.#send({ action: "refreshToken", token: await this.#getToken() });
      case "ack":
        return this.#settle(frame.requestId, waiting => waiting.resolve(frame));
      case "error":
        if (frame.close && !FINAL_CODES.includes(frame.close)) return this.#socket?.close();  // AWS has no codes of ours
        if (frame.code === "internal" || frame.code === "unavailable") return this.#repeat(frame.requestId);
        return this.#settle(frame.requestId, waiting => waiting.reject(new Error(`${frame.code}: ${frame.message}`)));
    }
  }

  // Whether it was published is unknown; with the same id it is one message.
  #repeat(requestId) {
    setTimeout(() => {
      const waiting = this.#waiting.get(requestId);
      if (waiting) this.#send(waiting.frame);
    }, 1_000);
  }

  #settle(requestId, how) {
    const waiting = this.#waiting.get(requestId);
    this.#waiting.delete(requestId);
    if (waiting) how(waiting);
  }
}
