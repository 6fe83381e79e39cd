package inspect

import (
	"cmp"
	"slices"
	"strings"

	"svcproxy/model"
)

// compareServices orders Services by name, protocol and chain; one that is there in both families, by its
// first frontend, so that IPv4 comes first.
func compareServices(a, b model.ServiceView) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Protocol, b.Protocol), strings.Compare(a.Chain, b.Chain),
		slices.CompareFunc(a.Frontends, b.Frontends, compareFrontends),
		slices.CompareFunc(a.Endpoints, b.Endpoints, compareEndpoints))
}

func compareFrontends(a, b model.FrontendView) int {
	return cmp.Or(strings.Compare(a.Type, b.Type), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port),
		strings.Compare(a.Action, b.Action))
}

func compareEndpoints(a, b model.EndpointView) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), strings.Compare(a.Chain, b.Chain),
		cmp.Compare(a.Probability, b.Probability))
}
