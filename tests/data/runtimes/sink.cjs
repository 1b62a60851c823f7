// As sink.mjs, as a CommonJS module with a callback.

exports.handler = (event, context, callback) => {
  import("./sink.mjs").then((sink) => sink.handler(event, context)).then((result) => callback(null, result), callback);
};
