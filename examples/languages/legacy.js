// How many words has a text? As one wrote it before there were promises.

exports.handler = function (event, context, callback) {
  setImmediate(function () {
    const words = event.data.text.split(/\s+/).filter(Boolean);
    console.log(words.length + " words");
    const longest = words.reduce((best, word) => (word.length > best.length ? word : best), "");
    callback(null, { words: words.length, longest });
  });
};
