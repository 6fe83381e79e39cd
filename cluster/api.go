package cluster

import (
	"encoding/json"
	"time"

	"svcproxy/proxier/local"
)

// The requests. doc.go says what each carries.
const (
	methodStatus   = "status"
	methodShutdown = "shutdown"
	methodApply    = "apply"
	methodWait     = "wait"
	methodGet      = "get"
	methodDelete   = "delete"
	methodSet      = "set"
	methodRestart  = "restart"
	methodExec     = "exec"
	methodAttach   = "attach"
	methodLog      = "log"
	methodDial     = "dial"
	methodInspect  = "inspect"
)

// Status says what a sandbox is.
type Status struct {
	Config  Config    `json:"config"`
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	// Proxy is the proxy mode in use, empty without a proxy.
	Proxy string `json:"proxy,omitempty"`
	Pods  int    `json:"pods"`
	Ready int    `json:"ready"`
}

// Change is what became of an object.
type Change struct {
	Ref
	// Action is created, configured, unchanged, deleted or restarted.
	Action string `json:"action"`
}

// String is the line that kubectl prints: "pod/web created".
func (c Change) String() string { return c.Ref.String() + " " + c.Action }

// The actions of a Change.
const (
	Created    = "created"
	Configured = "configured"
	Unchanged  = "unchanged"
	Deleted    = "deleted"
	Restarted  = "restarted"
)

// applyRequest brings objects into the cluster, all or none.
type applyRequest struct {
	Manifests *local.Manifests `json:"manifests"`
	// Create refuses objects that exist.
	Create bool `json:"create,omitempty"`
}

// waitRequest waits until pods are ready, or have succeeded.
type waitRequest struct {
	Pods    []Ref         `json:"pods"`
	Timeout time.Duration `json:"timeout"`
}

// Selection names objects.
type Selection struct {
	// Refs are objects by name; an error if one does not exist.
	Refs []Ref `json:"refs,omitempty"`
	// Kinds with neither Refs are all objects of these kinds.
	Kinds []Kind `json:"kinds,omitempty"`
	// Namespace of Kinds; empty is all.
	Namespace string `json:"namespace,omitempty"`
	// Labels is a label selector of Kinds.
	Labels string `json:"labels,omitempty"`
}

// objects are whole objects, each with apiVersion and kind.
type objects struct {
	Objects []json.RawMessage `json:"objects"`
}

// Limits are what is to be changed of a container's limits, as manifests write them; empty leaves one as it is.
type Limits struct {
	Memory string `json:"memory,omitempty"`
	CPU    string `json:"cpu,omitempty"`
	Pids   string `json:"pids,omitempty"`
}

type setRequest struct {
	Pod       Ref    `json:"pod"`
	Container string `json:"container,omitempty"`
	Limits    Limits `json:"limits"`
}

// Place is where a program runs.
type Place string

// The places.
const (
	InPod Place = "pod"
	// OnNode is the node: its network namespace, with the files and programs of the machine.
	OnNode Place = "node"
	// Outside is the host next to the node, which is no part of the cluster.
	Outside Place = "outside"
)

// ExecRequest asks for a program to be run.
type ExecRequest struct {
	Place Place `json:"place"`
	// Pod and Container of InPod; the first container, or the one of the usual annotation, if empty.
	Pod       Ref      `json:"pod,omitempty"`
	Container string   `json:"container,omitempty"`
	Args      []string `json:"args"`
	// Dir and Env (additions) are those of programs that run on the node or outside.
	Dir string   `json:"dir,omitempty"`
	Env []string `json:"env,omitempty"`
	// Stdin says that the program gets what the client reads; else nothing.
	Stdin    bool       `json:"stdin,omitempty"`
	Terminal bool       `json:"terminal,omitempty"`
	Size     WindowSize `json:"size"`
	// Timeout is how long to wait until a container runs that is to be attached to.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// WindowSize is a terminal's, in characters.
type WindowSize struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// ended is how a program ended.
type ended struct {
	Code   int `json:"code"`
	Signal int `json:"signal,omitempty"`
	// Note is for the user: why the program was killed.
	Note string `json:"note,omitempty"`
}

// exitCode is what a shell would make of it.
func (e ended) exitCode() int {
	if e.Signal != 0 {
		return 128 + e.Signal
	}
	return e.Code
}

type dialRequest struct {
	Target Ref `json:"target"`
	// Port is a number, or the name of a port.
	Port string `json:"port"`
}

// LogRequest asks for what a container wrote.
type LogRequest struct {
	Pod       Ref    `json:"pod"`
	Container string `json:"container,omitempty"`
	// Previous asks for the run before the present one.
	Previous bool `json:"previous,omitempty"`
	// Follow says that the client goes on reading until the run has ended.
	Follow bool `json:"follow,omitempty"`
}
