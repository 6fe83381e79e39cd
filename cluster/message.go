package cluster

import "encoding/json"

// Protocol counts the versions of the language that client and supervisor speak. Both must speak the same.
const Protocol = 1

// request is the first message of a connection, and says what the rest is about.
type request struct {
	Protocol int `json:"protocol"`
	// Version of the client's program, for the words to a user whose programs don't fit together.
	Version string          `json:"version"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

// reply is each of the supervisor's messages. The last has Done, or an Error.
type reply struct {
	// Version of the supervisor's program is in the first reply.
	Version string `json:"version,omitempty"`
	// Error says why the request came to nothing.
	Error string `json:"error,omitempty"`
	// NotFound says that the error is that something asked for does not exist.
	NotFound bool `json:"notFound,omitempty"`
	// Code is the exit code of a program that could not be started.
	Code int `json:"code,omitempty"`
	// Result is the answer, or a part of it in a reply that is not the last.
	Result json.RawMessage `json:"result,omitempty"`
	Done   bool            `json:"done,omitempty"`
}

// order is what a client says while its request goes on.
type order struct {
	// Signal is the number of a signal for the program that runs.
	Signal int `json:"signal,omitempty"`
	// Size is that of the terminal of a container that is attached to.
	Size *WindowSize `json:"size,omitempty"`
}
