package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is a kind of object that a sandbox has.
type Kind string

// The kinds, by their names in manifests.
const (
	Pods           Kind = "Pod"
	Services       Kind = "Service"
	EndpointSlices Kind = "EndpointSlice"
	Nodes          Kind = "Node"
	ConfigMaps     Kind = "ConfigMap"
	Secrets        Kind = "Secret"
	Events         Kind = "Event"
	Namespaces     Kind = "Namespace"
)

// kindInfo is what names a kind on a command line, as kubectl has it.
type kindInfo struct {
	// words are those that mean the kind; the first is the one it prints.
	words      []string
	plural     string
	namespaced bool
}

var kinds = map[Kind]kindInfo{
	Pods:           {[]string{"pod", "pods", "po"}, "pods", true},
	Services:       {[]string{"service", "services", "svc"}, "services", true},
	EndpointSlices: {[]string{"endpointslice.discovery.k8s.io", "endpointslice", "endpointslices", "endpointslices.discovery.k8s.io"}, "endpointslices.discovery.k8s.io", true},
	Nodes:          {[]string{"node", "nodes", "no"}, "nodes", false},
	ConfigMaps:     {[]string{"configmap", "configmaps", "cm"}, "configmaps", true},
	Secrets:        {[]string{"secret", "secrets"}, "secrets", true},
	Events:         {[]string{"event", "events", "ev"}, "events", true},
	Namespaces:     {[]string{"namespace", "namespaces", "ns"}, "namespaces", false},
}

// ParseKind reads a kind's name, plural or abbreviation, in any case.
func ParseKind(word string) (Kind, bool) {
	word = strings.ToLower(word)
	for kind, info := range kinds {
		if slices.Contains(info.words, word) {
			return kind, true
		}
	}
	return "", false
}

// Word is how kubectl prints the kind: "pod", "service", "endpointslice.discovery.k8s.io".
func (k Kind) Word() string { return kinds[k].words[0] }

// Ref names an object.
type Ref struct {
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String is the name as kubectl prints it: "pod/web", and "pod/web -n shop" outside the namespace default.
func (r Ref) String() string {
	s := r.Kind.Word() + "/" + r.Name
	if r.Namespace != "" && r.Namespace != "default" {
		s += " -n " + r.Namespace
	}
	return s
}

// ParseRef reads NAME, KIND/NAME or NAMESPACE/NAME; kind and namespace are what it is without them. A word that
// is a kind's means the kind; a namespace of such a name needs -n.
func ParseRef(text string, kind Kind, namespace string) (Ref, error) {
	r := Ref{Kind: kind, Namespace: namespace, Name: text}
	if first, name, cut := strings.Cut(text, "/"); cut {
		r.Name = name
		if k, ok := ParseKind(first); ok {
			r.Kind = k
		} else {
			r.Namespace = first
		}
	}
	if r.Name == "" || r.Namespace == "" || strings.Contains(r.Name, "/") {
		return r, fmt.Errorf("%q names no object: want NAME, KIND/NAME or NAMESPACE/NAME", text)
	}
	if !kinds[r.Kind].namespaced {
		r.Namespace = ""
	}
	return r, nil
}
