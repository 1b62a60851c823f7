// How many words has a text?

export const handler = async (event, context) => {
  const words = event.data.text.split(/\s+/).filter(Boolean);
  console.log(`${words.length} words, ${context.getRemainingTimeInMillis()} ms left`);
  const longest = words.reduce((best, word) => (word.length > best.length ? word : best), "");
  return { words: words.length, longest };
};
