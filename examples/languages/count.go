// How many words has a text?
//
// With github.com/aws/aws-lambda-go this would be lambda.Start(handle), and nothing else would change. What start does here
// is what that library does: ask the Runtime API for an event, call the handler, post the result.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

type event struct {
	Data struct {
		Text string `json:"text"`
	} `json:"data"`
}

type result struct {
	Words   int    `json:"words"`
	Longest string `json:"longest"`
}

type failure struct {
	Message string `json:"errorMessage"`
	Type    string `json:"errorType"`
}

func handle(given event) (result, error) {
	words := strings.Fields(given.Data.Text)
	fmt.Println(len(words), "words")
	var longest string
	for _, word := range words {
		if len(word) > len(longest) {
			longest = word
		}
	}
	return result{len(words), longest}, nil
}

func main() {
	start(handle)
}

func start(handle func(event) (result, error)) {
	base := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		response, err := http.Get(base + "next")
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		place := base + response.Header.Get("Lambda-Runtime-Aws-Request-Id")
		answer, err := call(handle, body)
		if err != nil {
			post(place+"/error", failure{err.Error(), fmt.Sprintf("%T", err)})
		} else {
			post(place+"/response", answer)
		}
	}
}

func call(handle func(event) (result, error), body []byte) (result, error) {
	var given event
	if err := json.Unmarshal(body, &given); err != nil {
		return result{}, err
	}
	return handle(given)
}

func post(url string, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	response, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	io.Copy(io.Discard, response.Body) // so that the connection is used again
	response.Body.Close()
}
