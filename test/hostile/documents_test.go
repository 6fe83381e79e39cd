package hostile

import (
	"bytes"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// document returns an object as YAML.
func document(object any) ([]byte, error) {
	switch o := object.(type) {
	case *corev1.Service:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	case *discoveryv1.EndpointSlice:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	}
	return yaml.Marshal(object)
}

// oddities are documents that are no objects.
var oddities = []string{
	"", "\n\n", "# nothing\n", "null\n", "[]\n", "42\n", "\"text\"\n", "{}\n", "{", "[", "}", "\"", "'", "&a *a\n", "*a\n",
	"a: &a [*a]\n", "\t- x\n", "? \n: \n", "!!binary x\n", "!!python/object x\n", "%YAML 9.9\n", "\xff\xfe\x00", "\x00\n", "a: b: c\n",
	"kind: Service\n", "apiVersion: v1\n", "apiVersion: v1\nkind: Service\n", "apiVersion: v1\nkind: Service\nmetadata: null\nspec: null\n",
	"apiVersion: v1\nkind: Service\nmetadata: []\n", "apiVersion: v1\nkind: Service\nspec: {ports: {a: b}}\n",
	"apiVersion: v1\nkind: [Service]\n", "apiVersion: 1\nkind: 2\n", "apiVersion: v2\nkind: Service\nmetadata: {name: x}\n",
	"apiVersion: v1\nkind: List\nitems: null\n", "apiVersion: v1\nkind: List\nitems: [null, 1, [], {}, {kind: List, apiVersion: v1}]\n",
	"apiVersion: v1\nkind: Node\nmetadata: {name: node}\nspec: {podCIDRs: [\"x\", 10.0.0.0/99]}\n",
	"apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: x}\nspec: {cidrs: [\"10.96.0.0/x\", \"::/0\"]}\n",
	"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nendpoints: [null]\nports: [null]\n",
	"apiVersion: v1\nkind: Service\nmetadata: {name: x, creationTimestamp: yesterday}\n",
	"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: 10.96.30.1, ports: [{port: 1e9}]}\n",
	"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: 10.96.30.1, ports: [{port: 80.5}]}\n",
	"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: 10.96.30.1, ports: [{port: 99999999999999999999}]}\n",
	"apiVersion: v1\nkind: Service\nmetadata: {name: y, name: z}\nspec: {clusterIP: 10.96.30.2, ports: [{port: 80}]}\n",
	"apiVersion: v1\nKIND: Service\nkind: Service\nmetadata: {NAME: y}\nspec: {clusterip: 10.96.30.2}\n",
	string(bytes.Repeat([]byte("["), 5000)), string(bytes.Repeat([]byte("a: {"), 2000)), string(bytes.Repeat([]byte("- "), 5000)),
	"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n" +
		"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n",
}

// rawDocument returns a generated object as YAML, damaged with a chance of one in three, or an oddity.
func (g *generator) rawDocument() []byte {
	r := g.random
	if r.IntN(10) == 0 {
		return []byte(pick(r, oddities))
	}
	var object metav1.Object = g.service()
	if r.IntN(2) == 0 {
		object = g.slice()
	}
	text, err := document(object)
	if err != nil { // something that no document can say
		return []byte(pick(r, oddities))
	}
	// Damage to the bad address of a healthy Service's endpoint might make it a good one.
	if r.IntN(3) == 0 && object.GetNamespace() != healthyNamespace {
		text = g.damage(text)
	}
	return text
}

// damage changes a text somewhere.
func (g *generator) damage(text []byte) []byte {
	r := g.random
	at := r.IntN(len(text))
	switch r.IntN(5) {
	case 0:
		return text[:at]
	case 1:
		text[at] = byte(r.UintN(256))
		return text
	case 2:
		return bytes.Join([][]byte{text[:at], []byte(word(r)), text[at:]}, nil)
	case 3:
		lines := bytes.SplitAfter(text, []byte("\n"))
		i, j := r.IntN(len(lines)), r.IntN(len(lines))
		lines[i], lines[j] = lines[j], lines[i]
		return bytes.Join(lines, nil)
	}
	return bytes.Join([][]byte{text[:at], text[min(at+r.IntN(20), len(text)):]}, nil)
}
