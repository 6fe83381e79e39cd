// Package churn changes endpoints and Services under load and looks at every single request: none may go to an
// endpoint that was removed before it began, none may be lost while there are endpoints, and connections to an
// endpoint that goes on living must not break. What was allowed when is known from the changes that the
// backends acknowledged, by the interpreter of plans.
package churn
