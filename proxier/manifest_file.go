package proxier

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"svcproxy/model"
)

// objectID identifies an API object of the kinds that manifests may hold.
type objectID struct{ kind, namespace, name string }

func (id objectID) String() string { return object(id.kind, id.namespace, id.name) }

// manifest is one object of a manifest file.
type manifest struct {
	id objectID
	// where is the file and the document, as "web.yaml, document 2".
	where string
	// set puts the object into Objects. It is nil if the object is broken, and err says why.
	set      func(*Objects)
	err      error
	warnings []string
}

// manifestFile is what a manifest file holds.
type manifestFile struct {
	objects []manifest
	// errs name the documents that can't even be told what they are; with any, the file may hold more
	// objects than are known.
	errs []error
}

// mayHold tells whether something in the file may be one of the objects that it held before.
func (f *manifestFile) mayHold(before map[objectID]string) bool {
	return len(f.errs) > 0 || slices.ContainsFunc(f.objects, func(m manifest) bool {
		_, held := before[m.id]
		return m.err != nil && !held
	})
}

// parseManifests reads the documents of a file: YAML or JSON, each an object or a List.
func parseManifests(file string, data []byte) *manifestFile {
	f := &manifestFile{}
	for i, doc := range Documents(data) {
		where := fmt.Sprintf("%s, document %d", file, i+1)
		if doc.Err != nil {
			f.errs = append(f.errs, fmt.Errorf("%s: %w", where, doc.Err))
			continue
		}
		f.add(where, doc.JSON, metav1.TypeMeta{}, doc.Odd)
	}
	return f
}

// Document is one document of a manifest file.
type Document struct {
	// JSON is what it says; nothing, or null, for an empty document.
	JSON []byte
	// Odd is what is wrong with it though it can be read, such as a key that is there twice.
	Odd error
	// Err is why it can't be read.
	Err error
}

// Documents splits the content of a manifest file, YAML or JSON, into its documents.
func Documents(data []byte) []Document {
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		if docs, ok := jsonDocuments(trimmed); ok {
			return docs
		}
	}
	var docs []Document
	reader := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			return append(docs, Document{Err: err})
		}
		docs = append(docs, yamlDocument(text))
	}
}

// jsonDocuments splits concatenated JSON documents; it fails for what only looks like JSON.
func jsonDocuments(data []byte) ([]Document, bool) {
	var docs []Document
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs, true
		}
		if err != nil {
			return nil, false
		}
		docs = append(docs, Document{JSON: raw})
	}
}

func yamlDocument(text []byte) Document {
	strict, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		return Document{JSON: strict}
	}
	lenient, fatal := yaml.YAMLToJSON(text)
	if fatal != nil {
		return Document{Err: fatal}
	}
	return Document{JSON: lenient, Odd: err}
}

// header is what every object has, and what Lists hold.
type header struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// The API versions and kinds that are read, and the lists of them.
var manifestKinds = map[string]string{
	"Service":       "v1",
	"Node":          "v1",
	"EndpointSlice": "discovery.k8s.io/v1",
	"ServiceCIDR":   "networking.k8s.io/v1",
}

var manifestLists = map[metav1.TypeMeta]metav1.TypeMeta{
	{APIVersion: "v1", Kind: "List"}:                               {},
	{APIVersion: "v1", Kind: "ServiceList"}:                        {APIVersion: "v1", Kind: "Service"},
	{APIVersion: "v1", Kind: "NodeList"}:                           {APIVersion: "v1", Kind: "Node"},
	{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"}: {APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
	{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDRList"}:  {APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
}

// add reads an object or a List. The items of a typed list may leave out what they are; item says it.
func (f *manifestFile) add(where string, doc []byte, item metav1.TypeMeta, invalid error) {
	if doc = bytes.TrimSpace(doc); len(doc) == 0 || bytes.Equal(doc, []byte("null")) {
		return
	}
	h := header{TypeMeta: item}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, &h); err != nil {
		f.errs = append(f.errs, fmt.Errorf("%s: %w", where, err))
		return
	}
	if h.Kind == "" || h.APIVersion == "" {
		f.errs = append(f.errs, fmt.Errorf("%s: apiVersion or kind is missing", where))
		return
	}
	if of, isList := manifestLists[h.TypeMeta]; isList {
		for i, raw := range h.Items {
			f.add(fmt.Sprintf("%s, items[%d]", where, i), raw, of, nil)
		}
		return
	}
	version, known := manifestKinds[h.Kind]
	if !known {
		if h.Metadata.Name == "" && cutShort(h.Kind) {
			f.errs = append(f.errs, fmt.Errorf("%s: kind: %s is unknown, and metadata.name is missing: is the file half written?", where, printable(h.Kind)))
		}
		return
	}
	m := manifest{where: where, id: objectID{h.Kind, h.Metadata.Namespace, h.Metadata.Name}}
	switch {
	case h.Kind == "Node" || h.Kind == "ServiceCIDR":
		m.id.namespace = ""
	case m.id.namespace == "":
		m.id.namespace = metav1.NamespaceDefault
	}
	switch {
	case h.APIVersion != version && (!sameGroup(h.APIVersion, version)):
		return // another project's kind, such as serving.knative.dev/v1 Service
	case h.APIVersion != version:
		m.err = fmt.Errorf("%s: %s: apiVersion: %s is not read: want %s", where, m.id, printable(h.APIVersion), version)
	case invalid != nil:
		m.err = fmt.Errorf("%s: %s: %w", where, m.id, invalid)
	default:
		m.decode(doc)
	}
	f.objects = append(f.objects, m)
}

// cutShort tells whether a kind is the beginning of one that is read.
func cutShort(kind string) bool {
	for full := range manifestKinds {
		if strings.HasPrefix(full, kind) {
			return true
		}
	}
	return false
}

// sameGroup tells whether two API versions are of one group.
func sameGroup(a, b string) bool {
	return path.Dir(a) == path.Dir(b)
}

// decode reads the object itself. Unknown fields are warnings, as an API server of another version may
// know them; whatever else is wrong makes the object broken.
func (m *manifest) decode(doc []byte) {
	var notes []string
	var err error
	id := m.id
	switch id.kind {
	case "Service":
		var o corev1.Service
		if err = m.unmarshal(doc, &o); err == nil {
			DefaultService(&o)
			var s *model.Service
			if s, notes, err = ConvertService(&o); s == nil && err == nil {
				notes = nil // not ours to serve, which is nothing odd
			}
			m.set = func(all *Objects) {
				setOrNot(all.Services, model.ServiceName{Namespace: id.namespace, Name: id.name}, s)
			}
		}
	case "EndpointSlice":
		var o discoveryv1.EndpointSlice
		if err = m.unmarshal(doc, &o); err == nil {
			DefaultSlice(&o)
			var s *model.Slice
			s, notes, err = ConvertSlice(&o)
			m.set = func(all *Objects) { setOrNot(all.Slices, model.SliceName{Namespace: id.namespace, Name: id.name}, s) }
		}
	case "Node":
		var o corev1.Node
		if err = m.unmarshal(doc, &o); err == nil {
			var n *model.Node
			n, notes, err = ConvertNode(&o)
			m.set = func(all *Objects) { all.Nodes[id.name] = n }
		}
	case "ServiceCIDR":
		var o networkingv1.ServiceCIDR
		if err = m.unmarshal(doc, &o); err == nil {
			var prefixes []netip.Prefix
			prefixes, err = ConvertServiceCIDR(&o)
			m.set = func(all *Objects) { all.ServiceCIDRs[id.name] = prefixes }
		}
	}
	for _, note := range notes {
		m.warnings = append(m.warnings, m.where+": "+note)
	}
	if err != nil {
		m.set, m.err = nil, fmt.Errorf("%s: %w", m.where, err)
	}
}

func setOrNot[K comparable, V any](all map[K]*V, name K, v *V) {
	if v != nil {
		all[name] = v
	}
}

// unmarshal decodes strictly. What strict decoding finds besides does no harm and is a warning.
func (m *manifest) unmarshal(doc []byte, o any) error {
	odd, err := kjson.UnmarshalStrict(doc, o)
	if err != nil {
		return fmt.Errorf("%s: %w", m.id, err)
	}
	for _, e := range odd {
		m.warnings = append(m.warnings, fmt.Sprintf("%s: %s: %v", m.where, m.id, e))
	}
	return nil
}
