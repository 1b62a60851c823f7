// How many words has a text?

import java.util.Arrays;
import java.util.List;

public class Count {
    public record Event(String id, Data data) {}

    public record Data(String text) {}

    public record Result(int words, String longest) {}

    public static Result handle(Event event) {
        List<String> words = Arrays.stream(event.data().text().split("\\s+")).filter(word -> !word.isEmpty()).toList();
        System.out.println(words.size() + " words");
        String longest = "";
        for (String word : words) if (word.length() > longest.length()) longest = word;
        return new Result(words.size(), longest);
    }
}
