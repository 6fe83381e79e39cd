package local

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"svcproxy/proxier"
)

// reader collects what manifest files hold.
type reader struct {
	manifests *Manifests
	errs      []error
	// seen tells where an object was first.
	seen map[string]string
}

func newReader() *reader {
	return &reader{manifests: &Manifests{}, seen: map[string]string{}}
}

// read reads one file.
func (r *reader) read(file string, data []byte, err error) {
	if err != nil {
		r.fail(file, err)
		return
	}
	for i, doc := range proxier.Documents(data) {
		where := fmt.Sprintf("%s, document %d", file, i+1)
		if err := cmp.Or(doc.Err, doc.Odd); err != nil {
			r.fail(where, err)
			continue
		}
		r.add(where, doc.JSON, metav1.TypeMeta{}, true)
	}
}

// fail reports what is wrong in a file or document. Decoders' messages may quote what stands there, so what
// would harm a terminal is escaped.
func (r *reader) fail(where string, err error) {
	r.errs = append(r.errs, fmt.Errorf("%s: %w", where, &printable{err}))
}

// printable is an error whose text can be shown.
type printable struct{ error }

func (p *printable) Unwrap() error { return p.error }

func (p *printable) Error() string {
	var b strings.Builder
	for _, r := range p.error.Error() {
		if unicode.IsPrint(r) || r == '\n' {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// head is what every object has, and what Lists hold.
type head struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Items []rawMessage `json:"items"`
}

// rawMessage is a part of a document, not decoded yet.
type rawMessage []byte

// UnmarshalJSON keeps a copy.
func (m *rawMessage) UnmarshalJSON(data []byte) error {
	*m = append((*m)[:0], data...)
	return nil
}

// add reads an object or a List. The items of a typed list may leave out what they are, which item says.
func (r *reader) add(where string, doc []byte, item metav1.TypeMeta, mayList bool) {
	if doc = bytes.TrimSpace(doc); len(doc) == 0 || bytes.Equal(doc, []byte("null")) {
		return
	}
	h := head{TypeMeta: item}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, &h); err != nil {
		r.fail(where, err)
		return
	}
	if h.Kind == "" || h.APIVersion == "" {
		r.fail(where, errors.New("apiVersion or kind is missing"))
		return
	}
	if kind, isList := strings.CutSuffix(h.Kind, "List"); isList && mayList {
		of := metav1.TypeMeta{APIVersion: h.APIVersion, Kind: kind}
		if kind == "" {
			of = metav1.TypeMeta{}
		}
		for i, raw := range h.Items {
			r.add(fmt.Sprintf("%s, items[%d]", where, i), raw, of, false)
		}
		return
	}
	if err := r.object(where, &h, doc); err != nil {
		r.fail(where, err)
	}
}

// kinds are the API versions of the kinds that are read.
var kinds = map[string]string{
	"Pod":           "v1",
	"Service":       "v1",
	"ConfigMap":     "v1",
	"Secret":        "v1",
	"Namespace":     "v1",
	"EndpointSlice": "discovery.k8s.io/v1",
}

// object reads one object.
func (r *reader) object(where string, h *head, doc []byte) error {
	namespace := h.Metadata.Namespace
	if namespace == "" && h.Kind != "Namespace" {
		namespace = metav1.NamespaceDefault
	}
	name := proxier.ObjectName(h.Kind, namespace, h.Metadata.Name)
	if version, known := kinds[h.Kind]; !known || version != h.APIVersion {
		return fmt.Errorf("%s: kind %s of %s is not one that the sandbox reads: want Pod, Service, ConfigMap, Secret or Namespace of v1, or EndpointSlice of discovery.k8s.io/v1",
			name, quoted(h.Kind), quoted(h.APIVersion))
	}
	if first, twice := r.seen[name]; twice {
		return fmt.Errorf("%s: is also in %s", name, first)
	}
	r.seen[name] = where
	if err := r.decode(h.Kind, doc); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// decode reads an object of a kind into the manifests.
func (r *reader) decode(kind string, doc []byte) error {
	m := r.manifests
	switch kind {
	case "Pod":
		pod, err := decodePod(doc)
		return into(&m.Pods, pod, err)
	case "Service":
		o := &corev1.Service{}
		return into(&m.Services, o, finished(doc, o, &o.ObjectMeta, finishService))
	case "ConfigMap":
		o := &corev1.ConfigMap{}
		return into(&m.ConfigMaps, o, finished(doc, o, &o.ObjectMeta, finishConfigMap))
	case "Secret":
		o := &corev1.Secret{}
		return into(&m.Secrets, o, finished(doc, o, &o.ObjectMeta, finishSecret))
	case "Namespace":
		o := &corev1.Namespace{}
		return into(&m.Namespaces, o, finished(doc, o, &o.ObjectMeta, finishNamespace))
	case "EndpointSlice":
		o := &discoveryv1.EndpointSlice{}
		err := finished(doc, o, &o.ObjectMeta, finishSlice)
		// What a cluster's controller made of its pods is made anew of these pods.
		if o.Labels[discoveryv1.LabelManagedBy] == sliceManager {
			return err
		}
		return into(&m.EndpointSlices, o, err)
	}
	return nil
}

// into adds an object that is good.
func into[T any](all *[]T, o T, err error) error {
	if err == nil {
		*all = append(*all, o)
	}
	return err
}

// finished decodes an object, and fills in and checks the rest.
func finished[T any](doc []byte, o *T, meta *metav1.ObjectMeta, finish func(*T) error) error {
	if err := unmarshal(doc, o, meta); err != nil {
		return err
	}
	return finish(o)
}
