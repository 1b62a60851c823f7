// How many words has a text? A bootstrap for the Runtime API in plain C#, for Mono's compiler or any .NET.

using System;
using System.IO;
using System.Linq;
using System.Net;
using System.Text;
using System.Text.RegularExpressions;

static class Count
{
    static string Handle(string json)
    {
        // With a JSON library of your choice this would be one line; the base library of Mono has none.
        var text = Regex.Unescape(Regex.Match(json, "\"text\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)*)\"").Groups[1].Value);
        var words = text.Split((char[])null, StringSplitOptions.RemoveEmptyEntries);
        Console.WriteLine("{0} words", words.Length);
        var longest = words.Aggregate("", (best, word) => word.Length > best.Length ? word : best);
        return "{\"words\":" + words.Length + ",\"longest\":" + Quote(longest) + "}";
    }

    static void Main()
    {
        var place = "http://" + Environment.GetEnvironmentVariable("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/";
        while (true)
        {
            string id;
            var json = Ask(place + "next", null, out id);
            string ignored;
            try
            {
                Ask(place + id + "/response", Handle(json), out ignored);
            }
            catch (FormatException error)
            {
                var body = "{\"errorType\":\"FormatException\",\"errorMessage\":" + Quote(error.Message) + "}";
                Ask(place + id + "/error", body, out ignored);
            }
        }
    }

    static string Ask(string url, string body, out string id)
    {
        var request = (HttpWebRequest)WebRequest.Create(url);
        request.Timeout = System.Threading.Timeout.Infinite; // the next event may be hours away
        if (body != null)
        {
            request.Method = "POST";
            var bytes = Encoding.UTF8.GetBytes(body);
            using (var stream = request.GetRequestStream()) stream.Write(bytes, 0, bytes.Length);
        }
        using (var response = request.GetResponse())
        using (var reader = new StreamReader(response.GetResponseStream()))
        {
            id = response.Headers["Lambda-Runtime-Aws-Request-Id"];
            return reader.ReadToEnd();
        }
    }

    static string Quote(string text)
    {
        var quoted = text.Select(c => c < ' ' || c == '"' || c == '\\' ? string.Format("\\u{0:x4}", (int)c) : c.ToString());
        return "\"" + string.Concat(quoted) + "\"";
    }
}
