// Package plan decides. From the Services, slices and configuration of one IP family it computes what
// every frontend does with a connection and which endpoints share it, each decision with its reason.
// Backends render what a plan says and decide nothing themselves.
//
// A Planner computes incrementally: the cost of a change grows with the Services that it touches and not
// with the number of Services. Build computes the same from nothing.
package plan
