package proxier

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"svcproxy/model"
	"svcproxy/plan"
)

func TestConvertReadsWhatTopologyNeeds(t *testing.T) {
	slice, notes, err := ConvertSlice(parse[discoveryv1.EndpointSlice](t, `
metadata: {namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.1], nodeName: n1, hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: n1}]}}]`))
	if err != nil || len(notes) != 0 {
		t.Fatal(notes, err)
	}
	want := model.Endpoint{Addr: slice.Endpoints[0].Addr, Ready: true, Serving: true, NodeName: "n1", NodeHints: []string{"n1"}, ZoneHints: []string{"z1", "z2"}}
	if got := slice.Endpoints[0]; !got.Equal(want) {
		t.Errorf("endpoint: got %+v, want %+v", got, want)
	}
	node, _, err := ConvertNode(parse[corev1.Node](t, `metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}`))
	if err != nil || node.Zone != "z1" {
		t.Errorf("Node: got %+v, %v, want zone z1", node, err)
	}
	for policy, local := range map[string]bool{"Local": true, "Cluster": false} {
		s, notes, err := ConvertService(parse[corev1.Service](t, `{metadata: {namespace: default, name: web}, spec: {clusterIP: 10.0.0.1, internalTrafficPolicy: `+policy+`, ports: [{port: 80}]}}`))
		if err != nil || len(notes) != 0 || s.InternalLocal != local {
			t.Errorf("policy %s: got %+v, %q, %v", policy, s, notes, err)
		}
	}
}

func TestInformersKeepWhatTopologyNeeds(t *testing.T) {
	zone := "z1"
	slice := &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Zone: &zone,
		Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z1"}}}}}}
	node := &corev1.Node{}
	node.Labels = map[string]string{corev1.LabelTopologyZone: "z1", "other": "x"}
	for _, o := range []any{slice, node} {
		if _, err := trim(o); err != nil {
			t.Fatal(err)
		}
	}
	if h := slice.Endpoints[0].Hints; h == nil || len(h.ForZones) != 1 {
		t.Errorf("hints: got %+v", h)
	}
	if len(node.Labels) != 1 || node.Labels[corev1.LabelTopologyZone] != "z1" {
		t.Errorf("labels: got %v", node.Labels)
	}
}

// A Node that moves to another zone gets the endpoints of that zone, with no Service having changed.
func TestANewZoneIsPlannedAnew(t *testing.T) {
	text := func(zone string) string {
		return `
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: ` + zone + `}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints:
- {addresses: [10.1.0.1], hints: {forZones: [{name: z1}]}}
- {addresses: [10.1.0.2], hints: {forZones: [{name: z2}]}}
`
	}
	store := NewStore("n1")
	tracker := store.Tracker(model.IPv4)
	for zone, want := range map[string]string{"z1": "10.1.0.1:80", "z2": "10.1.0.2:80"} {
		objects := NewObjects()
		for _, m := range parseManifests("f.yaml", []byte(text(zone))).objects {
			m.set(objects)
		}
		store.Update(*objects)
		batch := tracker.Take()
		p := plan.Build(Settings{}.Config(model.IPv4, batch.Node, nil), batch.Inputs)
		var got []string
		for _, s := range p.Services {
			for _, e := range s.Ports[0].Endpoints {
				got = append(got, e.AddrPort().String())
			}
		}
		if !slices.Equal(got, []string{want}) {
			t.Errorf("in zone %s: got %v, want %s", zone, got, want)
		}
	}
}
