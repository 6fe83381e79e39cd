package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
)

// table is how a kind is shown, with kubectl's columns.
type table struct {
	header []string
	// wide is how many of the last columns -o wide adds.
	wide int
	// nameless says that the first column is no name.
	nameless bool
	row      func(data []byte, now time.Time) ([]string, error)
}

var tables = map[Kind]table{
	Pods: {
		header: []string{"NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"}, wide: 2,
		row: rowOf(podRow),
	},
	Services: {
		header: []string{"NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"}, wide: 1,
		row: rowOf(serviceRow),
	},
	EndpointSlices: {header: []string{"NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"}, row: rowOf(sliceRow)},
	Nodes:          {header: []string{"NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP"}, wide: 1, row: rowOf(nodeRow)},
	ConfigMaps: {header: []string{"NAME", "DATA", "AGE"}, row: rowOf(func(m *v1.ConfigMap, now time.Time) []string {
		return []string{m.Name, strconv.Itoa(len(m.Data) + len(m.BinaryData)), age(m.CreationTimestamp, now)}
	})},
	Secrets: {header: []string{"NAME", "TYPE", "DATA", "AGE"}, row: rowOf(func(s *v1.Secret, now time.Time) []string {
		return []string{s.Name, string(s.Type), strconv.Itoa(len(s.Data)), age(s.CreationTimestamp, now)}
	})},
	Namespaces: {header: []string{"NAME", "STATUS", "AGE"}, row: rowOf(func(n *v1.Namespace, now time.Time) []string {
		return []string{n.Name, cmp.Or(string(n.Status.Phase), string(v1.NamespaceActive)), age(n.CreationTimestamp, now)}
	})},
	Events: {header: []string{"LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"}, nameless: true, row: rowOf(eventRow)},
}

// rowOf makes a row's function of one that takes the kind's type.
func rowOf[T any](row func(object *T, now time.Time) []string) func([]byte, time.Time) ([]string, error) {
	return func(data []byte, now time.Time) ([]string, error) {
		object := new(T)
		if err := json.Unmarshal(data, object); err != nil {
			return nil, err
		}
		return row(object, now), nil
	}
}

func age(since metav1.Time, now time.Time) string {
	if since.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(since.Time))
}

func podRow(p *v1.Pod, now time.Time) []string {
	ready, restarts := 0, 0
	var last metav1.Time
	for _, c := range p.Status.ContainerStatuses {
		restarts += int(c.RestartCount)
		if c.Ready {
			ready++
		}
		if t := c.LastTerminationState.Terminated; t != nil && last.Before(&t.FinishedAt) {
			last = t.FinishedAt
		}
	}
	again := strconv.Itoa(restarts)
	if restarts > 0 && !last.IsZero() {
		again += fmt.Sprintf(" (%s ago)", age(last, now))
	}
	return []string{
		p.Name, fmt.Sprintf("%d/%d", ready, len(p.Spec.Containers)), PodState(p), again, age(p.CreationTimestamp, now),
		orNone(p.Status.PodIP), orNone(p.Spec.NodeName),
	}
}

// PodState is the one word for a pod's state that kubectl shows as STATUS: the reason of the container that is
// worst off, else the phase.
func PodState(p *v1.Pod) string {
	state := cmp.Or(p.Status.Reason, string(p.Status.Phase))
	if initial := initState(p); initial != "" {
		state = initial
	} else {
		running := false
		for _, c := range slices.Backward(p.Status.ContainerStatuses) {
			if s := containerState(c.State); s != "" {
				state = s
			} else if c.Ready {
				running = true
			}
		}
		if state == "Completed" && running {
			state = "Running"
		}
	}
	if p.DeletionTimestamp != nil {
		return "Terminating"
	}
	return state
}

// initState tells what the first init container that is not done is up to.
func initState(p *v1.Pod) string {
	for i, c := range p.Status.InitContainerStatuses {
		switch {
		case c.State.Terminated != nil && c.State.Terminated.ExitCode == 0, c.Started != nil && *c.Started:
			continue
		case c.State.Terminated != nil:
			return "Init:" + containerState(c.State)
		case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
			return "Init:" + c.State.Waiting.Reason
		}
		return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
	}
	return ""
}

// containerState is empty for a container that runs.
func containerState(s v1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return s.Waiting.Reason
	case s.Terminated == nil:
		return ""
	case s.Terminated.Reason != "":
		return s.Terminated.Reason
	case s.Terminated.Signal != 0:
		return fmt.Sprintf("Signal:%d", s.Terminated.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", s.Terminated.ExitCode)
}

func serviceRow(s *v1.Service, now time.Time) []string {
	var ports []string
	for _, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.NodePort != 0 {
			port += ":" + strconv.Itoa(int(p.NodePort))
		}
		ports = append(ports, port+"/"+string(p.Protocol))
	}
	return []string{
		s.Name, string(s.Spec.Type), orNone(s.Spec.ClusterIP), externalIP(s), orNone(strings.Join(ports, ",")), age(s.CreationTimestamp, now),
		orNone(labels.FormatLabels(s.Spec.Selector)),
	}
}

func externalIP(s *v1.Service) string {
	if s.Spec.Type == v1.ServiceTypeExternalName {
		return s.Spec.ExternalName
	}
	var all []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		all = append(all, cmp.Or(i.IP, i.Hostname))
	}
	all = append(all, s.Spec.ExternalIPs...)
	if len(all) == 0 && s.Spec.Type == v1.ServiceTypeLoadBalancer {
		return "<pending>"
	}
	return orNone(strings.Join(all, ","))
}

func sliceRow(s *discoveryv1.EndpointSlice, now time.Time) []string {
	var ports, addrs []string
	for _, p := range s.Ports {
		if p.Port == nil {
			ports = append(ports, "*")
			continue
		}
		ports = append(ports, strconv.Itoa(int(*p.Port)))
	}
	for _, e := range s.Endpoints {
		addrs = append(addrs, e.Addresses...)
	}
	if more := len(addrs) - 3; more > 0 {
		addrs = append(addrs[:3], fmt.Sprintf("+ %d more...", more))
	}
	return []string{s.Name, string(s.AddressType), orUnset(strings.Join(ports, ",")), orUnset(strings.Join(addrs, ",")), age(s.CreationTimestamp, now)}
}

func nodeRow(n *v1.Node, now time.Time) []string {
	ready := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			ready = map[v1.ConditionStatus]string{v1.ConditionTrue: "Ready", v1.ConditionFalse: "NotReady"}[c.Status]
		}
	}
	addr := ""
	for _, a := range slices.Backward(n.Status.Addresses) {
		if a.Type == v1.NodeInternalIP {
			addr = a.Address
		}
	}
	return []string{n.Name, ready, "<none>", age(n.CreationTimestamp, now), n.Status.NodeInfo.KubeletVersion, orNone(addr)}
}

func eventRow(e *v1.Event, now time.Time) []string {
	word := strings.ToLower(e.InvolvedObject.Kind)
	if kind, ok := ParseKind(word); ok {
		word = kind.Word()
	}
	seen := age(e.LastTimestamp, now)
	if e.Count > 1 {
		seen += fmt.Sprintf(" (x%d over %s)", e.Count, age(e.FirstTimestamp, now))
	}
	return []string{seen, e.Type, e.Reason, word + "/" + e.InvolvedObject.Name, strings.TrimSpace(e.Message)}
}

func orNone(s string) string { return cmp.Or(s, "<none>") }

func orUnset(s string) string { return cmp.Or(s, "<unset>") }
