// Package conntrack keeps the kernel's connection tracking table free of flows that lead nowhere.
//
// Rules decide about the first packet of a flow only; the table leads all further ones to the same place. A TCP
// client whose endpoint is gone gets a reset or gives up and connects anew. A UDP client knows no connections:
// as long as it sends from the same port, each packet refreshes the entry that leads it astray. So what is
// stale is found and removed, for UDP alone; TCP is left to drain.
//
// Stale tells which flows those are. It is a pure function of the plan that the kernel acknowledged, the
// frontends that are gone (Tombstones) and the flows: not of events, which are lost when they are missed, and
// not of marks, which flows made by another proxy don't have. Cleaner runs it after each sync, unless its
// journal of what was acknowledged says that there can be nothing to find.
package conntrack
