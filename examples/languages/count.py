"""How many words has a text?"""


def handler(event, context):
    words = event["data"]["text"].split()
    print(f"{len(words)} words")
    return {"words": len(words), "longest": max(words, key=len, default="")}
