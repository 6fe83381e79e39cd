package local

import (
	"bytes"
	"fmt"
	"strings"

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
		r.errs = append(r.errs, fmt.Errorf("%s: %w", file, err))
		return
	}
	for i, doc := range proxier.Documents(data) {
		where := fmt.Sprintf("%s, document %d", file, i+1)
		if err := cmpErr(doc.Err, doc.Odd); err != nil {
			r.errs = append(r.errs, fmt.Errorf("%s: %w", where, err))
			continue
		}
		r.add(where, doc.JSON, metav1.TypeMeta{}, true)
	}
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
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
		r.errs = append(r.errs, fmt.Errorf("%s: %w", where, err))
		return
	}
	if h.Kind == "" || h.APIVersion == "" {
		r.errs = append(r.errs, fmt.Errorf("%s: apiVersion or kind is missing", where))
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
		r.errs = append(r.errs, fmt.Errorf("%s: %w", where, err))
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
		if err != nil {
			return err
		}
		m.Pods = append(m.Pods, pod)
	case "Service":
		o := &corev1.Service{}
		if err := unmarshal(doc, o, &o.ObjectMeta); err != nil {
			return err
		}
		if err := finishService(o); err != nil {
			return err
		}
		m.Services = append(m.Services, o)
	case "ConfigMap":
		o := &corev1.ConfigMap{}
		if err := unmarshal(doc, o, &o.ObjectMeta); err != nil {
			return err
		}
		if err := finishConfigMap(o); err != nil {
			return err
		}
		m.ConfigMaps = append(m.ConfigMaps, o)
	case "Secret":
		o := &corev1.Secret{}
		if err := unmarshal(doc, o, &o.ObjectMeta); err != nil {
			return err
		}
		if err := finishSecret(o); err != nil {
			return err
		}
		m.Secrets = append(m.Secrets, o)
	case "Namespace":
		o := &corev1.Namespace{}
		if err := unmarshal(doc, o, &o.ObjectMeta); err != nil {
			return err
		}
		o.Namespace, o.Spec, o.Status = "", corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
		if err := checkMeta(&o.ObjectMeta, label).ToAggregate(); err != nil {
			return err
		}
		m.Namespaces = append(m.Namespaces, o)
	case "EndpointSlice":
		o := &discoveryv1.EndpointSlice{}
		if err := unmarshal(doc, o, &o.ObjectMeta); err != nil {
			return err
		}
		// What a cluster's controller made of its pods is made anew of these pods.
		if o.Labels[discoveryv1.LabelManagedBy] == sliceManager {
			return nil
		}
		if err := finishSlice(o); err != nil {
			return err
		}
		m.EndpointSlices = append(m.EndpointSlices, o)
	}
	return nil
}
